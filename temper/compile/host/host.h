/* C interface of Temper's run-time library: a process-wide thread pool and contexts that walk a list of kernel launches.
 *
 * A C program (for example a TensorFlow kernel) uses it so:
 *     temper_context *c = temper_create(launches, n, refs, values, bindings, threads, workspace, stride);
 *     void *io[] = {input0, ..., output0, ...};           // binding addresses, in the order refs name them
 *     int32_t status = temper_run(c, io);                  // any thread, no lock of the caller's is touched
 *     temper_destroy(c);
 * No function below prints, reads the environment or raises a signal. temper_run allocates nothing once the pool has its threads.
 * Different contexts may run at once from different threads; one context may not (temper_run then returns TEMPER_BUSY).
 * After fork() the child's first parallel run starts a new pool; contexts remain valid in the child. */
#ifndef TEMPER_HOST_H
#define TEMPER_HOST_H
#include <stdint.h>

#define TEMPER_ABI 1

/* A kernel: p and v as its launch lists them; computes share `part` of `parts`. Results do not depend on who runs which part. */
typedef void (*temper_entry)(void *const *p, const int64_t *v, int32_t part, int32_t parts);

enum { TEMPER_ADDRESS = 0, TEMPER_BINDING = 1, TEMPER_WORKSPACE = 2 };

/* One pointer argument. ADDRESS: value is the address itself. BINDING: value bytes into binding `index`.
 * WORKSPACE: value bytes into the scratch of the thread that runs the part. */
typedef struct {
  int32_t kind;
  int32_t index;
  int64_t value;
} temper_ref;

/* One kernel call. Its pointers are the next `refs` entries of the refs array, its integers the next `values` of the values array.
 * parts = 1: runs on the calling thread. barrier: nonzero if every earlier launch must have finished. */
typedef struct {
  temper_entry entry;
  int32_t parts;
  int32_t barrier;
  int32_t refs;
  int32_t values;
} temper_launch;

enum { TEMPER_OK = 0, TEMPER_BUSY = -1 };

typedef struct temper_context temper_context;

/* The interface's version, TEMPER_ABI of the library. */
int32_t temper_abi(void);

/* Microseconds a thread spins for work or at a barrier before it sleeps in the kernel; process-wide. 0: sleep at once. */
void temper_set_spin(int64_t microseconds);

/* Copies everything it is given. bindings: number of binding addresses temper_run receives. threads: most threads to use, at least 1.
 * workspace: scratch of `threads` * stride bytes that outlives the context. NULL if memory is short or an argument is senseless. */
temper_context *temper_create(const temper_launch *launches, int64_t n, const temper_ref *refs, const int64_t *values,
                              int32_t bindings, int32_t threads, void *workspace, int64_t stride);

/* Runs every launch, with the default floating-point environment (round to nearest, denormals kept) on all threads; the caller's
 * is restored. `bindings` are the addresses of inputs and outputs. If another context is using the pool, the caller does all parts. */
int32_t temper_run(temper_context *c, void *const *bindings);

/* As temper_run, with a barrier after every launch; adds the seconds of launch i to seconds[i]. */
int32_t temper_profile(temper_context *c, void *const *bindings, double *seconds);

/* Waits until no thread of the pool looks at the context, then frees it. It must not be running. */
void temper_destroy(temper_context *c);
#endif
