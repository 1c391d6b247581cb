/* The device's memory: the host's, but no more of it than the device has. A header before each block knows its size. */
#include <acl/acl.h>
#include <acl/acl_rt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sim.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum { HEADER = 512 };
typedef struct { size_t size; int device; } Block;
static size_t used[SIM_DEVICES];

static size_t total(void) { return (size_t)sim_setting("C4D_SIM_MEMORY_MB", 65536) << 20; }
static int take(size_t size, int from) {
  int fits;
  LOCKED(fits = used[from] + size <= total(); if (fits) used[from] += size);
  return fits;
}
static void give(size_t size, int to) { LOCKED(used[to] -= size); }

aclError aclrtGetMemInfo(aclrtMemAttr what, size_t *free_, size_t *total_) {
  *total_ = total();
  *free_ = *total_ - used[sim_device()];
  return 0;
}
aclError aclrtMalloc(void **out, size_t size, aclrtMemMallocPolicy policy) {
  int here = sim_device();
  void *whole = *out = NULL;
  if (!take(size, here)) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  if (posix_memalign(&whole, 512, size + HEADER)) return give(size, here), ACL_ERROR_RT_MEMORY_ALLOCATION;
  *(Block *)whole = (Block){size, here};
  *out = (char *)whole + HEADER;
  return 0;
}
aclError aclrtMallocAlign32(void **out, size_t size, aclrtMemMallocPolicy policy) { return aclrtMalloc(out, size, policy); }
aclError aclrtFree(void *address) {
  if (!address) return 0;
  Block *block = (Block *)((char *)address - HEADER);
  aclrtSynchronizeDevice();
  give(block->size, block->device);
  free(block);
  return 0;
}
aclError aclrtMallocHost(void **out, size_t size) {
  return posix_memalign(out, 4096, size ? size : 1) ? ACL_ERROR_RT_MEMORY_ALLOCATION : 0;
}
aclError aclrtMallocHostWithCfg(void **out, uint64_t size, aclrtMallocConfig *config) { return aclrtMallocHost(out, size); }
aclError aclrtFreeHost(void *address) { free(address); return 0; }

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind) {
  if (size > room) return ACL_ERROR_INVALID_PARAM;
  memmove(to, from, size);
  return 0;
}
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind, aclrtStream on) {
  return aclrtMemcpy(to, room, from, size, kind);
}
aclError aclrtMemset(void *to, size_t room, int32_t value, size_t size) { memset(to, value, size); return 0; }
aclError aclrtMemsetAsync(void *to, size_t room, int32_t value, size_t size, aclrtStream on) {
  return aclrtMemset(to, room, value, size);
}

/* Virtual memory, for expandable segments: addresses first, memory when it is mapped. */
aclError aclrtReserveMemAddress(void **out, size_t size, size_t alignment, void *near, uint64_t flags) {
  *out = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *out == MAP_FAILED ? ACL_ERROR_RT_MEMORY_ALLOCATION : 0;
}
aclError aclrtReleaseMemAddress(void *address) { return 0; }
aclError aclrtMallocPhysical(aclrtDrvMemHandle *out, size_t size, const aclrtPhysicalMemProp *kind, uint64_t flags) {
  if (!take(size, sim_device())) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  Block *block = malloc(sizeof *block);
  *block = (Block){size, sim_device()};
  *out = (void *)block;
  return 0;
}
aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  Block *block = (void *)handle;
  give(block->size, block->device);
  free(block);
  return 0;
}
aclError aclrtMapMem(void *address, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t flags) {
  return mprotect(address, size, PROT_READ | PROT_WRITE) ? ACL_ERROR_INVALID_PARAM : 0;
}
aclError aclrtUnmapMem(void *address) { return 0; }
