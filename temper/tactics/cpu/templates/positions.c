/* Positions of the elements that are not zero (NaN is not), in row-major order: rows of RANK indices, zeros behind them, and their number.
 *
 * One thread: where a row goes depends on all elements before it. T is an element; SIZES are those of the axes. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v, (void)parts;
    if (part != 0)
        return;
    static const int64_t sizes[RANK] = SIZES;
    const T *x = p[0];
    int64_t *rows = p[1], found = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        if (x[i] == 0)
            continue;
        int64_t rest = i;
        for (int d = RANK - 1; d >= 0; d--) {
            rows[found * RANK + d] = rest % sizes[d];
            rest /= sizes[d];
        }
        found++;
    }
    for (int64_t i = found * RANK; i < (int64_t)COUNT * RANK; i++)
        rows[i] = 0;
    *(int64_t *)p[2] = found;
}
