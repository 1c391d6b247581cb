/* What the parts of the stand-in know of each other. */
#include <acl/acl.h>

enum { SIM_DEVICES = 16 };
#define LOCKED(...) do { pthread_mutex_lock(&lock); __VA_ARGS__; pthread_mutex_unlock(&lock); } while (0)

int sim_device(void);
long sim_setting(const char *name, long otherwise);
void sim_touch(aclrtStream stream, const void *buffer, int writes); /* of a collective, for the check of order */
