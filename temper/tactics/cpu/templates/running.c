/* Running sums or products along one axis of [OUTER, LENGTH, INNER]; REVERSE: from the end; EXCLUSIVE: of the elements before.
 *
 * T is an element, A what totals are kept in: double for floats, unsigned for integers, which wrap. Up to LINES neighbouring lines
 * advance together. */

#define LINES 64

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t length = LENGTH, inner = INNER, blocks = (inner + LINES - 1) / LINES;
    int64_t lo, hi;
    share(OUTER * blocks, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t first = u % blocks * LINES, width = inner - first < LINES ? inner - first : LINES;
        const T *x = (const T *)p[0] + u / blocks * length * inner + first;
        T *y = (T *)p[1] + u / blocks * length * inner + first;
        A total[LINES];
        for (int64_t j = 0; j < width; j++)
            total[j] = START;
        for (int64_t i = 0; i < length; i++) {
            const int64_t at = (REVERSE ? length - 1 - i : i) * inner;
            for (int64_t j = 0; j < width; j++) {
                const A next = total[j] OP (A)x[at + j];
                y[at + j] = (T)(EXCLUSIVE ? total[j] : next);
                total[j] = next;
            }
        }
    }
}
