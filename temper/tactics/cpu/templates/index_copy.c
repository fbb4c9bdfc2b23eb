/* A movement that maps each output axis on its own: out[.., i, .., q, r] = in[.., table[i], .., table[q], r]; -1 in a table means FILL.
 *
 * Q is the innermost mapped axis, R the contiguous run below it. The tactic defines T ENTRY OUTER OUTER_INDEX Q R X_Q Y_Q (elements between
 * consecutive q in input and output) FILL HAS_FILL ONE (R is 1) BLOCK (q per unit of work) TABLE (argument of Q's table), TABLE_OFFSET
 * (where it begins there) and FORM:
 *   FORM 0  the table holds one input index per q: runs of R elements are copied (or single elements, where R is 1).
 *   FORM 1  both sides are dense below Q, and the table holds segments (first q, first input index or -1, length), cut at multiples
 *           of BLOCK and sorted; before them comes, for every block and one past the last, the number of its first segment.
 * OUTER_INDEX turns `outer` into at_in, at_out and `hole` (an outer table said FILL). */

#define BYTES ((int64_t)sizeof(T))

INLINE void copy_run(T *to, const T *from, int64_t n)
{
    char *y = (char *)to;
    const char *x = (const char *)from;
    const int64_t size = n * BYTES, step = 4 * VL;
    if (size < step) {
        for (int64_t i = 0; i < n; i++)
            to[i] = from[i];
        return;
    }
    int64_t i = 0;
    for (; i + 4 * step <= size; i += 4 * step) {
        vi a = ldi(x + i), b = ldi(x + i + step), c = ldi(x + i + 2 * step), d = ldi(x + i + 3 * step);
        sti(y + i, a);
        sti(y + i + step, b);
        sti(y + i + 2 * step, c);
        sti(y + i + 3 * step, d);
    }
    for (; i + step <= size; i += step)
        sti(y + i, ldi(x + i));
    if (i < size)
        sti(y + size - step, ldi(x + size - step));
}

INLINE void fill_run(T *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = FILL;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const T *x = p[0];
    T *y = p[1];
    const int32_t *table = (const int32_t *)p[TABLE] + (TABLE_OFFSET);
    const int64_t blocks = ((int64_t)Q + BLOCK - 1) / BLOCK;
    int64_t item, end;
    share((int64_t)(OUTER) * blocks, part, parts, &item, &end);
    for (; item < end; item++) {
        int64_t block = item % blocks, outer = item / blocks, at_in = 0, at_out = 0, hole = 0;
        OUTER_INDEX
        const int64_t q0 = block * BLOCK, q1 = q0 + BLOCK < Q ? q0 + BLOCK : Q;
        T *b = y + at_out;
#if HAS_FILL
        if (hole) {
            for (int64_t q = q0; q < q1; q++)
                fill_run(b + q * (Y_Q), R);
            continue;
        }
#endif
        const T *a = x + at_in;
#if FORM == 1
        const int32_t *segment = table + blocks + 1;
        for (int32_t s = table[block]; s < table[block + 1]; s++) {
            const int64_t q = segment[3 * s], from = segment[3 * s + 1], n = segment[3 * s + 2];
#if HAS_FILL
            if (from < 0) {
                fill_run(b + q * R, n * R);
                continue;
            }
#endif
            copy_run(b + q * R, a + from * R, n * R);
        }
#else
        for (int64_t q = q0; q < q1; q++) {
            const int64_t from = table[q];
#if HAS_FILL
            if (from < 0) {
                fill_run(b + q * (Y_Q), R);
                continue;
            }
#endif
#if ONE
            b[q * (Y_Q)] = a[from * (X_Q)];
#else
            copy_run(b + q * (Y_Q), a + from * (X_Q), R);
#endif
        }
#endif
    }
}
