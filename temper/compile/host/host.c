/* The run-time library (see host.h): one translation unit, no headers but the compiler's; libc symbols are resolved when it is loaded.
 *
 * A run is walked by the caller and by any pool thread that wakes in time. Thread t owns a fixed range of each launch's parts, takes
 * those first (they match what its cache holds), then helps others; parts are claimed by compare-and-swap, so a thread that
 * never wakes costs nothing. All words of a run carry its epoch, so a thread that slept through the end of a run cannot touch the
 * next one, and the caller never waits for threads that hold no part. */
#include "host.h"
#include <stdatomic.h>
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_WORKERS 255
#define LINE 64

/* libc, x86-64 Linux */
typedef struct { long sec, nsec; } timespec_t;
long syscall(long number, ...);
int pthread_create(unsigned long *thread, const void *attr, void *(*start)(void *), void *arg);
int pthread_detach(unsigned long thread);
int pthread_sigmask(int how, const void *set, void *old);
int clock_gettime(int clock, timespec_t *t);
int sched_yield(void);
void *calloc(size_t n, size_t size);
void free(void *p);
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *) __attribute__((weak)); /* glibc */
extern int pthread_atfork(void (*)(void), void (*)(void), void (*)(void)) __attribute__((weak));            /* musl */

enum { SYS_FUTEX = 202, FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129, MONOTONIC = 1, SIG_SETMASK = 2 };

typedef struct { _Alignas(LINE) _Atomic uint64_t v; } word; /* epoch << 32 | count, alone in its cache line */

typedef struct {
  temper_entry entry;
  int32_t parts, barrier;
  uint32_t before; /* parts of all earlier launches */
  int64_t pointers, values;
} launch;

typedef struct {
  int64_t at; /* position in a pointer table */
  int64_t binding, offset;
} patch;

/* What one thread owns of one launch. Claims are counted per thread through the whole run, single-part launches left out. */
typedef struct {
  uint32_t claim, part, parts; /* number of the first claim, first part, how many */
} share;

struct temper_context {
  word done;                                /* finished parts of this run */
  _Alignas(LINE) _Atomic uint32_t sleepers; /* threads asleep on `done` */
  _Alignas(LINE) _Atomic uint32_t busy;     /* pool generation of the run in progress, 0 if none */
  uint32_t epoch, total;                    /* of the latest run; parts of all launches */
  int64_t n, table;                         /* launches; pointers in one thread's table */
  int32_t threads, bindings, parallel;
  int64_t patches;
  launch *launches;
  share *shares;   /* [n][threads] */
  void **pointers; /* [threads][table] */
  int64_t *values;
  patch *patched;
  void **bound; /* [bindings] addresses the tables hold */
  word *claims; /* [threads] */
  void *memory;
};

typedef struct {
  _Alignas(LINE) _Atomic(temper_context *) context; /* what this worker may be looking at */
} worker;

static struct {
  _Alignas(LINE) _Atomic uint32_t owner;  /* 1 while a run uses the pool */
  _Alignas(LINE) _Atomic uint32_t posted; /* changes with every run; workers sleep on it */
  _Alignas(LINE) _Atomic uint32_t sleepers;
  _Alignas(LINE) _Atomic(temper_context *) job;
  _Atomic uint32_t registered;
  int32_t started;
  worker workers[MAX_WORKERS];
} pool;
static _Atomic int64_t spin = 100000;   /* nanoseconds */
static _Atomic uint32_t generation = 1; /* one more in every forked child */

static int64_t now(void) {
  timespec_t t;
  clock_gettime(MONOTONIC, &t);
  return t.sec * 1000000000 + t.nsec;
}

static void futex_wait(_Atomic uint32_t *at, uint32_t seen) { syscall(SYS_FUTEX, at, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }
static void futex_wake(_Atomic uint32_t *at, int32_t threads) { syscall(SYS_FUTEX, at, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0); }
static _Atomic uint32_t *low(word *w) { return (_Atomic uint32_t *)&w->v; } /* little-endian */

static uint32_t float_environment(void) { return __builtin_ia32_stmxcsr(); }
static void set_float_environment(uint32_t mxcsr) { __builtin_ia32_ldmxcsr(mxcsr); }
enum { DEFAULT_MXCSR = 0x1f80 };

/* True once `count` parts of run `epoch` are done; false if the run is over. */
static int wait_done(temper_context *c, uint32_t epoch, uint32_t count) {
  int64_t until = 0;
  for (uint32_t i = 0;; i++) {
    uint64_t v = atomic_load_explicit(&c->done.v, memory_order_acquire);
    if ((uint32_t)(v >> 32) != epoch) return 0;
    if ((uint32_t)v >= count) return 1;
    if (i % 32 != 31) {
      __builtin_ia32_pause();
      continue;
    }
    int64_t t = now();
    if (!until) until = t + atomic_load_explicit(&spin, memory_order_relaxed);
    if (t < until) continue;
    atomic_fetch_add(&c->sleepers, 1);
    v = atomic_load(&c->done.v);
    if ((uint32_t)(v >> 32) == epoch && (uint32_t)v < count) futex_wait(low(&c->done), (uint32_t)v);
    atomic_fetch_sub(&c->sleepers, 1);
  }
}

static void finish_part(temper_context *c) {
  atomic_fetch_add(&c->done.v, 1);
  if (atomic_load(&c->sleepers)) futex_wake(low(&c->done), 0x7fffffff);
}

/* The next unclaimed part of launch l owned by thread `home`, or -1. */
static int32_t claim(temper_context *c, uint32_t epoch, int64_t l, int32_t home) {
  const share *s = c->shares + l * c->threads + home;
  uint64_t v = atomic_load_explicit(&c->claims[home].v, memory_order_acquire);
  while ((uint32_t)(v >> 32) == epoch && (uint32_t)v - s->claim < s->parts) {
    if (atomic_compare_exchange_weak(&c->claims[home].v, &v, v + 1)) return (int32_t)(s->part + (uint32_t)v - s->claim);
  }
  return -1;
}

/* One thread's way through a run. seconds: only from the caller (slot 0) of temper_profile. */
static void walk(temper_context *c, uint32_t epoch, int32_t slot, double *seconds) {
  void **table = c->pointers + slot * c->table;
  int64_t start = seconds ? now() : 0;
  for (int64_t l = 0; l < c->n; l++) {
    const launch *k = &c->launches[l];
    if (k->parts == 1 && slot) continue;
    if (k->barrier && !wait_done(c, epoch, k->before)) return;
    if (k->parts == 1) {
      k->entry(table + k->pointers, c->values + k->values, 0, 1);
      finish_part(c);
    } else {
      for (int32_t i = 0; i < c->threads; i++) {
        int32_t home = slot + i < c->threads ? slot + i : slot + i - c->threads, part;
        while ((part = claim(c, epoch, l, home)) >= 0) {
          k->entry(table + k->pointers, c->values + k->values, part, k->parts);
          finish_part(c);
        }
      }
    }
    if (seconds) {
      wait_done(c, epoch, k->before + (uint32_t)k->parts);
      int64_t t = now();
      seconds[l] += (double)(t - start) * 1e-9;
      start = t;
    }
  }
}

static void *work(void *arg) {
  int32_t index = (int32_t)(intptr_t)arg;
  _Atomic(temper_context *) *mine = &pool.workers[index].context;
  uint32_t seen = atomic_load(&pool.posted) - 1; /* the run that started this thread may still want it */
  set_float_environment(DEFAULT_MXCSR);
  for (;;) {
    int64_t until = 0;
    for (uint32_t i = 0; atomic_load_explicit(&pool.posted, memory_order_acquire) == seen; i++) {
      if (i % 32 != 31) {
        __builtin_ia32_pause();
        continue;
      }
      int64_t t = now();
      if (!until) until = t + atomic_load_explicit(&spin, memory_order_relaxed);
      if (t < until) continue;
      atomic_fetch_add(&pool.sleepers, 1);
      if (atomic_load(&pool.posted) == seen) futex_wait(&pool.posted, seen);
      atomic_fetch_sub(&pool.sleepers, 1);
    }
    seen = atomic_load(&pool.posted);
    temper_context *c = atomic_load(&pool.job);
    if (!c) continue;
    atomic_store(mine, c);                 /* published before the job is seen again: temper_destroy waits for it */
    if (atomic_load(&pool.job) == c && index + 1 < c->threads) walk(c, (uint32_t)(atomic_load(&c->done.v) >> 32), index + 1, NULL);
    atomic_store(mine, NULL);
  }
  return NULL;
}

/* In a forked child no worker exists and nothing is running, whatever the parent was doing. */
static void after_fork(void) {
  atomic_store(&pool.owner, 0);
  atomic_store(&pool.sleepers, 0);
  atomic_store(&pool.job, NULL);
  atomic_fetch_add(&generation, 1);
  pool.started = 0;
  for (int32_t i = 0; i < MAX_WORKERS; i++) atomic_store(&pool.workers[i].context, NULL);
}

/* Called by the pool's owner. Fewer threads than wanted is no error: whoever runs does their parts. */
static void start_workers(int32_t wanted) {
  if (pool.started >= wanted) return;
  uint64_t all[16], old[16]; /* signals stay with the host program's threads */
  for (int i = 0; i < 16; i++) all[i] = ~0ull;
  pthread_sigmask(SIG_SETMASK, all, old);
  while (pool.started < wanted) {
    unsigned long thread;
    if (pthread_create(&thread, NULL, work, (void *)(intptr_t)pool.started)) break;
    pthread_detach(thread);
    pool.started++;
  }
  pthread_sigmask(SIG_SETMASK, old, NULL);
}

static void patch_bindings(temper_context *c, void *const *bindings) {
  int changed = 0;
  for (int32_t i = 0; i < c->bindings; i++) changed |= c->bound[i] != bindings[i];
  if (!changed) return;
  for (int32_t i = 0; i < c->bindings; i++) c->bound[i] = bindings[i];
  for (int64_t i = 0; i < c->patches; i++) {
    void *address = (char *)bindings[c->patched[i].binding] + c->patched[i].offset;
    for (int32_t t = 0; t < c->threads; t++) c->pointers[t * c->table + c->patched[i].at] = address;
  }
}

static void run_alone(temper_context *c, double *seconds) {
  int64_t start = seconds ? now() : 0;
  for (int64_t l = 0; l < c->n; l++) {
    const launch *k = &c->launches[l];
    for (int32_t part = 0; part < k->parts; part++) k->entry(c->pointers + k->pointers, c->values + k->values, part, k->parts);
    if (seconds) {
      int64_t t = now();
      seconds[l] += (double)(t - start) * 1e-9;
      start = t;
    }
  }
}

static void post(temper_context *c) {
  uint32_t epoch = ++c->epoch;
  /* claims before done: a worker takes the epoch from done */
  for (int32_t t = 0; t < c->threads; t++) atomic_store(&c->claims[t].v, (uint64_t)epoch << 32);
  atomic_store(&c->done.v, (uint64_t)epoch << 32);
  atomic_store(&pool.job, c);
  atomic_fetch_add(&pool.posted, 1);
  if (atomic_load(&pool.sleepers)) futex_wake(&pool.posted, 0x7fffffff);
}

static int32_t run(temper_context *c, void *const *bindings, double *seconds) {
  uint32_t current = atomic_load(&generation), was = atomic_load(&c->busy);
  if (was == current || !atomic_compare_exchange_strong(&c->busy, &was, current)) return TEMPER_BUSY;
  uint32_t mxcsr = float_environment();
  set_float_environment(DEFAULT_MXCSR);
  patch_bindings(c, bindings);
  uint32_t unowned = 0;
  if (c->parallel && atomic_compare_exchange_strong(&pool.owner, &unowned, 1)) {
    start_workers(c->threads - 1);
    post(c);
    walk(c, c->epoch, 0, seconds);
    wait_done(c, c->epoch, c->total);
    atomic_store(&pool.job, NULL);
    atomic_store(&pool.owner, 0);
  } else {
    run_alone(c, seconds);
  }
  set_float_environment(mxcsr);
  atomic_store(&c->busy, 0);
  return TEMPER_OK;
}

EXPORT int32_t temper_abi(void) { return TEMPER_ABI; }

EXPORT void temper_set_spin(int64_t microseconds) { atomic_store(&spin, microseconds * 1000); }

EXPORT int32_t temper_run(temper_context *c, void *const *bindings) { return run(c, bindings, NULL); }

EXPORT int32_t temper_profile(temper_context *c, void *const *bindings, double *seconds) { return run(c, bindings, seconds); }

/* Takes `bytes` from the block at *at, 64-byte aligned. */
static void *take(char **at, int64_t bytes) {
  void *p = *at;
  *at += (bytes + LINE - 1) / LINE * LINE;
  return p;
}

EXPORT temper_context *temper_create(const temper_launch *launches, int64_t n, const temper_ref *refs, const int64_t *values,
                                     int32_t bindings, int32_t threads, void *workspace, int64_t stride) {
  if (n < 0 || bindings < 0 || threads < 1 || threads > MAX_WORKERS + 1) return NULL;
  int64_t table = 0, integers = 0, patches = 0, parts = 0;
  for (int64_t l = 0; l < n; l++) {
    if (launches[l].parts < 1 || launches[l].refs < 0 || launches[l].values < 0 || !launches[l].entry) return NULL;
    table += launches[l].refs;
    integers += launches[l].values;
    parts += launches[l].parts;
  }
  for (int64_t i = 0; i < table; i++) {
    if (refs[i].kind == TEMPER_BINDING && (refs[i].index < 0 || refs[i].index >= bindings)) return NULL;
    patches += refs[i].kind == TEMPER_BINDING;
  }
  if (parts > 0x7fffffff) return NULL;
  if (!atomic_exchange(&pool.registered, 1)) {
    if (__register_atfork) __register_atfork(NULL, NULL, after_fork, NULL);
    else if (pthread_atfork) pthread_atfork(NULL, NULL, after_fork);
  }
  int64_t row = (table * 8 + LINE - 1) / LINE * LINE;
  int64_t bytes = (int64_t)sizeof(temper_context) + n * (int64_t)sizeof(launch) + n * threads * (int64_t)sizeof(share) + threads * row +
                  integers * 8 + patches * (int64_t)sizeof(patch) + bindings * 8 + threads * (int64_t)sizeof(word) + 10 * LINE;
  char *memory = calloc(1, (size_t)bytes);
  if (!memory) return NULL;
  char *at = (char *)(((uintptr_t)memory + LINE - 1) / LINE * LINE);
  temper_context *c = take(&at, (int64_t)sizeof *c);
  c->memory = memory;
  c->n = n;
  c->table = row / 8;
  c->threads = threads;
  c->bindings = bindings;
  c->patches = patches;
  c->launches = take(&at, n * (int64_t)sizeof(launch));
  c->shares = take(&at, n * threads * (int64_t)sizeof(share));
  c->pointers = take(&at, threads * row);
  c->values = take(&at, integers * 8);
  c->patched = take(&at, patches * (int64_t)sizeof(patch));
  c->bound = take(&at, bindings * 8);
  c->claims = take(&at, threads * (int64_t)sizeof(word));
  for (int64_t i = 0; i < integers; i++) c->values[i] = values[i];
  for (int64_t i = 0, p = 0; i < table; i++) {
    if (refs[i].kind == TEMPER_BINDING) c->patched[p++] = (patch){i, refs[i].index, refs[i].value};
    for (int32_t t = 0; t < threads; t++) {
      void **slot = &c->pointers[t * c->table + i];
      /* a binding's table entries start as if it were at address 0, which is what `bound` says */
      *slot = refs[i].kind == TEMPER_WORKSPACE ? (char *)workspace + t * stride + refs[i].value : (char *)refs[i].value;
    }
  }
  int64_t pointers = 0, integer = 0;
  for (int64_t l = 0; l < n; l++) {
    const temper_launch *from = &launches[l];
    c->launches[l] = (launch){from->entry, from->parts, from->barrier, c->total, pointers, integer};
    pointers += from->refs;
    integer += from->values;
    c->total += (uint32_t)from->parts;
    c->parallel |= threads > 1 && from->parts > 1;
    for (int64_t t = 0; t < threads; t++) {
      share *mine = c->shares + l * threads + t, *earlier = l ? mine - threads : NULL;
      uint32_t first = (uint32_t)((from->parts * t + threads - 1) / threads);
      uint32_t end = (uint32_t)((from->parts * (t + 1) + threads - 1) / threads);
      *mine = (share){earlier ? earlier->claim + earlier->parts : 0, first, from->parts == 1 ? 0 : end - first};
    }
  }
  return c;
}

EXPORT void temper_destroy(temper_context *c) {
  if (!c) return;
  for (int32_t i = 0; i < MAX_WORKERS; i++) {
    while (atomic_load(&pool.workers[i].context) == c) sched_yield();
  }
  free(c->memory);
}
