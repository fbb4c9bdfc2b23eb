// Times one kernel from C, so that Python's call overhead is not in the figure.
//
// Constant operands are cold in a real network: between two uses of a layer's weights, all other layers' weights pass through the
// caches. `rotate` names the pointer that walks over `copies` copies of the packed weights, `step` bytes apart.
#include <stdint.h>

struct timespec { int64_t tv_sec, tv_nsec; };
int clock_gettime(int clock, struct timespec *t);

typedef void kernel_fn(void *const *p, const int64_t *v, int32_t part, int32_t parts);

// Time this thread ran: a neighbour that takes the core for a while does not count.
static int64_t now(void)
{
    struct timespec t;
    clock_gettime(3 /* CLOCK_THREAD_CPUTIME_ID */, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

// What reading that clock costs: it is a system call.
static int64_t clock_cost(void)
{
    int64_t best = 1000000;
    for (int i = 0; i < 16; i++) {
        int64_t t = now(), d = now() - t;
        best = d < best ? d : best;
    }
    return best;
}

// Runs the entries in order `reps` times and stores each repetition's nanoseconds.
__attribute__((visibility("default")))
void temper_time(kernel_fn *const *entries, int32_t n_entries, void **p, const int64_t *v, int32_t part, int32_t parts,
                 int32_t rotate, int64_t step, int32_t copies, int32_t reps, int64_t *out)
{
    char *base = rotate >= 0 ? p[rotate] : 0;
    const int64_t cost = clock_cost();
    for (int32_t r = 0; r < reps; r++) {
        if (rotate >= 0)
            p[rotate] = base + step * (r % copies);
        int64_t t = now();
        for (int32_t e = 0; e < n_entries; e++)
            entries[e](p, v, part, parts);
        int64_t d = now() - t - cost;
        out[r] = d > 1 ? d : 1;
    }
    if (rotate >= 0)
        p[rotate] = base;
}
