/* A stand-in for HCCL: ranks of one host meet in a file of shared memory. Collectives are blocking and in order, and sum
 * rank by rank, so that every rank gets the same bits. hccl_types.h is C++ only, its few types stand here again. */
#include <acl/acl.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

typedef int HcclResult, HcclDataType, HcclReduceOp;
typedef void *HcclComm, HcclCommConfig;
typedef struct { char internal[4108]; } HcclRootInfo;
typedef struct { int kind; void *buffer; uint64_t count; int dtype; uint32_t peer; } HcclSendRecvItem;
enum { SEND, RECV };
enum { OK, TOO_LARGE = 3, NOT_SUPPORTED = 5, SYSTEM = 8, TIMEOUT = 9 };
enum { INT8, INT16, INT32, FP16, FP32, INT64, UINT64, UINT8, UINT16, UINT32, FP64, BF16 };
enum { SUM, PROD, MAX, MIN };
static const int SIZE[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};

enum { RANKS = 16, TABLE = 64 * RANKS };
#define SLOT (64UL << 20) /* what a rank gives to a collective */
#define BOX (8UL << 20)   /* one message from a rank to another */
typedef struct { atomic_ulong arrived, full[RANKS][RANKS]; } Control;
typedef struct { uint32_t size, rank; unsigned long round; Control *control; char *slots, *boxes, name[128]; } Comm;

static char *slot(Comm *c, uint32_t rank) { return c->slots + rank * SLOT; }

/* A rank that does not come is an error after a while, as with HCCL_EXEC_TIMEOUT. */
static int late(time_t since) {
  sched_yield();
  return time(NULL) - since > sim_setting("C4D_SIM_TIMEOUT", 60);
}
static int meet(Comm *c) {
  unsigned long all = ++c->round * c->size;
  time_t since = time(NULL);
  atomic_fetch_add(&c->control->arrived, 1);
  while (atomic_load(&c->control->arrived) < all) if (late(since)) return TIMEOUT;
  return OK;
}
#define TRY(step) do { int failed_ = (step); if (failed_) return failed_; } while (0)

/* -- communicators */

HcclResult HcclGetRootInfo(HcclRootInfo *root) {
  static int made;
  memset(root, 0, sizeof *root);
  snprintf(root->internal, 100, "c4d_hccl_%d_%d", getpid(), made++);
  return OK;
}
HcclResult HcclCommInitRootInfo(uint32_t size, const HcclRootInfo *root, uint32_t rank, HcclComm *out) {
  if (size > RANKS) return NOT_SUPPORTED;
  char path[256];
  const char *folder = getenv("C4D_SIM_FOLDER");
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "/dev/shm", root->internal);
  size_t bytes = sizeof(Control) + size * SLOT + (size_t)size * size * BOX; /* sparse: only what is used exists */
  int file = open(path, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, bytes)) return SYSTEM;
  char *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (shared == MAP_FAILED) return SYSTEM;
  Comm *c = calloc(1, sizeof *c);
  *c = (Comm){.size = size, .rank = rank, .control = (Control *)shared, .slots = shared + sizeof(Control)};
  c->boxes = c->slots + size * SLOT;
  snprintf(c->name, sizeof c->name, "%s", root->internal);
  int failed = meet(c);
  unlink(path); /* everybody has it open */
  *out = c;
  return failed;
}
HcclResult HcclCommInitRootInfoConfig(uint32_t size, const HcclRootInfo *root, uint32_t rank, const HcclCommConfig *config,
                                      HcclComm *out) {
  return HcclCommInitRootInfo(size, root, rank, out);
}
HcclResult HcclCommDestroy(HcclComm comm) { return OK; }
HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult *error) { *error = OK; return OK; }
const char *HcclGetErrorString(HcclResult error) {
  return error == TIMEOUT ? "a rank did not come" : error == TOO_LARGE ? "larger than the simulation's buffers" : "failed";
}
uint32_t HcclGetCommConfigCapability(void) { return 0; }
HcclResult HcclGetCommName(HcclComm comm, char *name) { strcpy(name, ((Comm *)comm)->name); return OK; }
HcclResult HcclGetRankSize(HcclComm comm, uint32_t *size) { *size = ((Comm *)comm)->size; return OK; }
HcclResult HcclGetRankId(HcclComm comm, uint32_t *rank) { *rank = ((Comm *)comm)->rank; return OK; }
HcclResult HcclBarrier(HcclComm comm, aclrtStream stream) { return meet(comm); }

/* -- reductions */

static double read_number(const void *at, int dtype) {
  switch (dtype) {
    case INT8: return *(int8_t *)at;
    case INT32: return *(int32_t *)at;
    case UINT8: return *(uint8_t *)at;
    case FP16: return *(_Float16 *)at;
    case FP32: return *(float *)at;
    case FP64: return *(double *)at;
    default: { uint32_t bits = (uint32_t)*(uint16_t *)at << 16; float value; memcpy(&value, &bits, 4); return value; }
  }
}
static void write_number(void *at, int dtype, double value) {
  switch (dtype) {
    case INT8: *(int8_t *)at = value; break;
    case INT32: *(int32_t *)at = value; break;
    case UINT8: *(uint8_t *)at = value; break;
    case FP16: *(_Float16 *)at = value; break;
    case FP32: *(float *)at = value; break;
    case FP64: *(double *)at = value; break;
    default: {
      float narrow = value;
      uint32_t bits;
      memcpy(&bits, &narrow, 4);
      *(uint16_t *)at = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
  }
}
#define COMBINE(a, b) (op == SUM ? a + b : op == PROD ? a * b : op == MAX ? (a > b ? a : b) : (a < b ? a : b))
/* What all ranks gave, from `offset` of their slots on; rounded to the dtype after each rank. */
static HcclResult reduce(Comm *c, void *out, uint64_t offset, uint64_t count, int dtype, int op) {
  if (dtype == INT16 || dtype == UINT16 || dtype == UINT32 || dtype == UINT64) return NOT_SUPPORTED;
  memcpy(out, slot(c, 0) + offset, count * SIZE[dtype]);
  for (uint32_t rank = 1; rank < c->size; rank++)
    for (uint64_t i = 0; i < count; i++) {
      char *to = (char *)out + i * SIZE[dtype], *from = slot(c, rank) + offset + i * SIZE[dtype];
      if (dtype == INT64) *(int64_t *)to = COMBINE(*(int64_t *)to, *(int64_t *)from);
      else { double a = read_number(to, dtype), b = read_number(from, dtype); write_number(to, dtype, COMBINE(a, b)); }
    }
  return OK;
}

/* -- collectives: everybody fills a slot, meets, reads the others' slots, meets */

static HcclResult give(Comm *c, const void *from, uint64_t bytes, aclrtStream stream) {
  sim_touch(stream, from, 0);
  if (bytes > SLOT) return TOO_LARGE;
  memcpy(slot(c, c->rank), from, bytes);
  return meet(c);
}
HcclResult HcclAllReduce(void *in, void *out, uint64_t n, HcclDataType t, HcclReduceOp op, HcclComm c, aclrtStream s) {
  TRY(give(c, in, n * SIZE[t], s));
  sim_touch(s, out, 1);
  TRY(reduce(c, out, 0, n, t, op));
  return meet(c);
}
HcclResult HcclReduce(void *in, void *out, uint64_t n, HcclDataType t, HcclReduceOp op, uint32_t root, HcclComm c,
                      aclrtStream s) {
  TRY(give(c, in, n * SIZE[t], s));
  if (((Comm *)c)->rank == root) { sim_touch(s, out, 1); TRY(reduce(c, out, 0, n, t, op)); }
  return meet(c);
}
HcclResult HcclBroadcast(void *data, uint64_t n, HcclDataType t, uint32_t root, HcclComm c, aclrtStream s) {
  int here = ((Comm *)c)->rank == root;
  TRY(give(c, data, here ? n * SIZE[t] : 0, s));
  if (!here) { sim_touch(s, data, 1); memcpy(data, slot(c, root), n * SIZE[t]); }
  return meet(c);
}
HcclResult HcclAllGather(void *in, void *out, uint64_t n, HcclDataType t, HcclComm comm, aclrtStream s) {
  Comm *c = comm;
  TRY(give(c, in, n * SIZE[t], s));
  sim_touch(s, out, 1);
  for (uint32_t rank = 0; rank < c->size; rank++) memcpy((char *)out + rank * n * SIZE[t], slot(c, rank), n * SIZE[t]);
  return meet(c);
}
HcclResult HcclReduceScatter(void *in, void *out, uint64_t n, HcclDataType t, HcclReduceOp op, HcclComm comm, aclrtStream s) {
  Comm *c = comm;
  TRY(give(c, in, n * SIZE[t] * c->size, s));
  sim_touch(s, out, 1);
  TRY(reduce(c, out, c->rank * n * SIZE[t], n, t, op));
  return meet(c);
}
HcclResult HcclScatter(void *in, void *out, uint64_t n, HcclDataType t, uint32_t root, HcclComm comm, aclrtStream s) {
  Comm *c = comm;
  TRY(give(c, in, c->rank == root ? n * SIZE[t] * c->size : 0, s));
  sim_touch(s, out, 1);
  memcpy(out, slot(c, root) + c->rank * n * SIZE[t], n * SIZE[t]);
  return meet(c);
}
HcclResult HcclAlltoAll(const void *in, uint64_t n, HcclDataType t, const void *out, uint64_t m, HcclDataType t2, HcclComm comm,
                        aclrtStream s) {
  Comm *c = comm;
  uint64_t bytes = n * SIZE[t];
  TRY(give(c, in, bytes * c->size, s));
  sim_touch(s, out, 1);
  for (uint32_t rank = 0; rank < c->size; rank++) memcpy((char *)out + rank * bytes, slot(c, rank) + c->rank * bytes, bytes);
  return meet(c);
}
/* A slot starts with a table: where the part for each rank stands. */
HcclResult HcclAlltoAllV(const void *in, const void *in_counts, const void *in_starts, HcclDataType t, const void *out,
                         const void *out_counts, const void *out_starts, HcclDataType t2, HcclComm comm, aclrtStream s) {
  Comm *c = comm;
  const uint64_t *n = in_counts, *from = in_starts, *m = out_counts, *to = out_starts;
  uint64_t *table = (uint64_t *)slot(c, c->rank), at = TABLE;
  sim_touch(s, in, 0);
  for (uint32_t rank = 0; rank < c->size; at += n[rank++] * SIZE[t]) {
    if (at + n[rank] * SIZE[t] > SLOT) return TOO_LARGE;
    table[rank] = at;
    memcpy((char *)table + at, (const char *)in + from[rank] * SIZE[t], n[rank] * SIZE[t]);
  }
  TRY(meet(c));
  sim_touch(s, out, 1);
  for (uint32_t rank = 0; rank < c->size; rank++)
    memcpy((char *)out + to[rank] * SIZE[t], slot(c, rank) + ((uint64_t *)slot(c, rank))[c->rank], m[rank] * SIZE[t]);
  return meet(c);
}

/* -- messages: a box for each pair of ranks, full or empty */

static int post(Comm *c, HcclSendRecvItem *item) {
  int sends = item->kind == SEND;
  uint32_t from = sends ? c->rank : item->peer, to = sends ? item->peer : c->rank;
  atomic_ulong *full = &c->control->full[from][to];
  char *box = c->boxes + (from * c->size + to) * BOX;
  if (sends == (int)atomic_load(full)) return 0;
  uint64_t bytes = item->count * SIZE[item->dtype];
  memcpy(sends ? box : item->buffer, sends ? item->buffer : box, bytes);
  atomic_store(full, sends);
  return 1;
}
HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t n, HcclComm comm, aclrtStream s) {
  char posted[256] = {0};
  time_t since = time(NULL);
  if (n > 256) return NOT_SUPPORTED;
  for (uint32_t i = 0; i < n; i++) {
    if (items[i].count * SIZE[items[i].dtype] > BOX) return TOO_LARGE;
    sim_touch(s, items[i].buffer, items[i].kind == RECV);
  }
  for (uint32_t left = n; left;) {
    for (uint32_t i = 0; i < n; i++) {
      int turn = !posted[i]; /* messages between two ranks keep their order */
      for (uint32_t j = 0; j < i; j++) turn &= posted[j] || items[j].peer != items[i].peer || items[j].kind != items[i].kind;
      if (turn && post(comm, &items[i])) { posted[i] = 1; left--; }
    }
    if (left && late(since)) return TIMEOUT;
  }
  return OK;
}
HcclResult HcclSend(void *data, uint64_t n, HcclDataType t, uint32_t peer, HcclComm c, aclrtStream s) {
  return HcclBatchSendRecv(&(HcclSendRecvItem){SEND, data, n, t, peer}, 1, c, s);
}
HcclResult HcclRecv(void *data, uint64_t n, HcclDataType t, uint32_t peer, HcclComm c, aclrtStream s) {
  return HcclBatchSendRecv(&(HcclSendRecvItem){RECV, data, n, t, peer}, 1, c, s);
}
