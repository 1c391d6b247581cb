/* A stand-in for CANN on the host's memory: what torch_npu really asks of a device, with its real limits.
 *
 * Prototypes come from the ACL headers inside the torch_npu wheel, so the compiler checks every signature. Work is done
 * at once, but what a device would owe to nobody is not promised: each stream, event and the host has a vector clock,
 * which moves only by launching, recording and waiting. order.py reads the clocks and refuses what is read too early. */
#include <acl/acl.h>
#include <acl/acl_op_compiler.h>
#include <acl/acl_rt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* -- device */

enum { CORES = 24 };
static _Thread_local int current = -1;
static int last = -1; /* of any thread: new threads start on it */

long sim_setting(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value && *value ? atol(value) : otherwise;
}
static int devices(void) { return sim_setting("C4D_SIM_DEVICES", 1); }
int sim_device(void) { return current >= 0 ? current : last >= 0 ? last : 0; }

aclError aclInit(const char *config) { return 0; }
aclError aclFinalize(void) { return 0; }
const char *aclGetRecentErrMsg(void) { return "simulated CANN"; }
const char *aclrtGetSocName(void) {
  const char *name = getenv("C4D_SIM_SOC");
  return name ? name : "Ascend910B3";
}
aclError aclrtGetDeviceCount(uint32_t *count) { *count = devices(); return 0; }
aclError aclrtSetDevice(int32_t wanted) {
  if (wanted < 0 || wanted >= devices() || wanted >= SIM_DEVICES) return ACL_ERROR_RT_INVALID_DEVICEID;
  current = last = wanted;
  return 0;
}
aclError aclrtGetDevice(int32_t *found) {
  if (current < 0 && last < 0) return ACL_ERROR_RT_CONTEXT_NULL;
  *found = sim_device();
  return 0;
}
aclError aclrtResetDevice(int32_t which) { return 0; }
aclError aclrtGetCurrentContext(aclrtContext *context) { *context = &lock; return 0; }
aclError aclrtSetCurrentContext(aclrtContext context) { return 0; }
aclError aclrtGetPrimaryCtxState(int32_t which, uint32_t *flags, int32_t *active) {
  if (flags) *flags = 0;
  *active = last >= 0;
  return 0;
}
aclError aclrtGetDeviceInfo(uint32_t which, aclrtDevAttr what, int64_t *value) { *value = CORES; return 0; }
aclError aclGetDeviceCapability(uint32_t which, aclDeviceInfo what, int64_t *value) { *value = CORES; return 0; }
aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t here, int32_t there) { *can = 1; return 0; }
aclError aclrtPeekAtLastError(aclrtLastErrLevel level) { return 0; }
aclError aclrtGetLastError(aclrtLastErrLevel level) { return 0; }

/* -- options that torch_npu looks up by name while it starts */

aclError aclSetCompileopt(aclCompileOpt option, const char *value) { return 0; }
size_t aclGetCompileoptSize(aclCompileOpt option) { return 8; }
aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t size) { strncpy(value, "disable", size); return 0; }
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) { *value = 0; return 0; }
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) { return 0; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return 0; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) { return 0; }
aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t on) { return 0; }
aclError aclrtSetOpWaitTimeout(uint32_t seconds) { return 0; }
aclError aclrtSetOpExecuteTimeOut(uint32_t seconds) { return 0; }

/* -- clocks: clock[i] of an agent is how much of agent i's work has certainly been done for it */

enum { AGENTS = 256, PATIENCE = 64 };
typedef struct { int id, polls; uint64_t clock[AGENTS]; } Agent;
typedef struct { long long ns; Agent then; } Event;
static Agent host; /* id 0 */
static Agent *streams[AGENTS] = {&host};
static int last_stream;

static void join(Agent *who, const Agent *with) {
  for (int i = 0; i < AGENTS; i++) if (who->clock[i] < with->clock[i]) who->clock[i] = with->clock[i];
}
static int done(const Agent *work) {
  for (int i = 0; i < AGENTS; i++) if (host.clock[i] < work->clock[i]) return 0;
  return 1;
}
/* A device is slow for whoever asks: "not yet", until somebody waited or it was asked often. */
static int poll(Agent *work) {
  if (!done(work) && ++work->polls <= PATIENCE) return 0;
  join(&host, work);
  return 1;
}
static Agent *agent(aclrtStream stream) { return stream ? (Agent *)stream : &host; }

int sim_id(aclrtStream stream) { return agent(stream)->id; }
/* One piece of work of a stream (NULL: the host); it comes after all that the host has waited for. */
uint64_t sim_launch(aclrtStream stream) {
  Agent *who = agent(stream);
  uint64_t tick;
  LOCKED(join(who, &host); who->polls = 0; tick = ++who->clock[who->id]);
  return tick;
}
uint64_t sim_knows(aclrtStream stream, int id) { return agent(stream)->clock[id]; }

/* -- streams and events */

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flags) {
  Agent *made = calloc(1, sizeof *made);
  LOCKED(made->id = last_stream + 1 < AGENTS ? ++last_stream : 0; if (made->id) streams[made->id] = made);
  *stream = made;
  return made->id ? 0 : ACL_ERROR_RT_STREAM_CONTEXT;
}
aclError aclrtCreateStream(aclrtStream *stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) { return 0; } /* its clock is still asked for */
aclError aclrtDestroyStreamForce(aclrtStream stream) { return 0; }
aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) { *id = sim_id(stream); return 0; }
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus *status) {
  LOCKED(*status = poll(agent(stream)) ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY);
  return 0;
}
aclError aclrtSynchronizeStream(aclrtStream stream) { LOCKED(join(&host, agent(stream))); return 0; }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t ms) { return aclrtSynchronizeStream(stream); }
aclError aclrtSynchronizeDevice(void) {
  LOCKED(for (int i = 1; i <= last_stream; i++) join(&host, streams[i]));
  return 0;
}
aclError aclrtSynchronizeDeviceWithTimeout(int32_t ms) { return aclrtSynchronizeDevice(); }

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flags) { *event = calloc(1, sizeof(Event)); return 0; }
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flags) { return aclrtCreateEventExWithFlag(event, flags); }
aclError aclrtDestroyEvent(aclrtEvent event) { free(event); return 0; }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { return 0; }
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  Event *recorded = event;
  recorded->ns = now.tv_sec * 1000000000LL + now.tv_nsec;
  LOCKED(recorded->then = *agent(stream); recorded->then.polls = 0);
  return 0;
}
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  LOCKED(join(agent(stream), &((Event *)event)->then));
  return 0;
}
aclError aclrtSynchronizeEvent(aclrtEvent event) { LOCKED(join(&host, &((Event *)event)->then)); return 0; }
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
  LOCKED(*status = poll(&((Event *)event)->then) ? ACL_EVENT_RECORDED_STATUS_COMPLETE
                                                 : ACL_EVENT_RECORDED_STATUS_NOT_READY);
  return 0;
}
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return 0;
}
aclError aclrtEventElapsedTime(float *ms, aclrtEvent from, aclrtEvent to) {
  *ms = (((Event *)to)->ns - ((Event *)from)->ns) / 1e6f;
  return 0;
}
aclError aclrtLaunchCallback(aclrtCallback call, void *data, aclrtCallbackBlockType block, aclrtStream stream) {
  call(data);
  return 0;
}

/* -- what was launched: names of kernels, and the buffers of collectives, for the tests to take */

static char names[1 << 17];
static size_t length;
void sim_trace(const char *name) {
  size_t more = strlen(name);
  LOCKED(if (length + more + 2 < sizeof names) length += sprintf(names + length, "%s ", name));
}
const char *sim_take_trace(void) {
  static char taken[sizeof names];
  LOCKED(memcpy(taken, names, length); taken[length] = 0; length = 0);
  return taken;
}
aclError aclopCompileAndExecuteV2(const char *name, int inputs, aclTensorDesc *in[], aclDataBuffer *in_data[], int outputs,
                                  aclTensorDesc *out[], aclDataBuffer *out_data[], aclopAttr *attr, aclopEngineType engine,
                                  aclopCompileType compile, const char *path, aclrtStream stream) {
  sim_trace(name);
  return 0;
}

typedef struct { aclrtStream stream; const void *buffer; int64_t writes; uint64_t tick; } Touch;
static Touch touches[1024];
static int touched;
void sim_touch(aclrtStream stream, const void *buffer, int writes) {
  uint64_t tick = sim_launch(stream); /* now: events that are recorded next come after it */
  LOCKED(if (touched < 1024) touches[touched++] = (Touch){stream, buffer, writes, tick});
}
int sim_take_touches(Touch *out) {
  int n;
  LOCKED(n = touched; memcpy(out, touches, n * sizeof *out); touched = 0);
  return n;
}
