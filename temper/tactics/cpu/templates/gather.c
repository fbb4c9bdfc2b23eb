/* Gather with indices known at run time: out[o, i, ..] = in[o, index[i], ..] for rows of R contiguous elements.
 *
 * Defined by the tactic (dimensions may read v[]): T, INDEX (types), OUTER, SIZE (of the gathered axis), COUNT (of indices), R.
 * A negative index counts from the end. An index outside the axis, which ONNX forbids, gives a row of all-one bits: NaN, or -1. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const T *x = p[0];
    const INDEX *index = p[1];
    T *y = p[2];
    const int64_t size = SIZE, count = COUNT, run = R;
    int64_t row, end;
    share((int64_t)(OUTER) * count, part, parts, &row, &end);
    for (; row < end; row++) {
        int64_t i = index[row % count];
        i += i < 0 ? size : 0;
        T *b = y + row * (Y_ROW);
        if (i < 0 || i >= size) {
            for (int64_t k = 0; k < run; k++)
                b[k] = (T)-1;
            continue;
        }
        const T *a = x + (row / count * size + i) * (X_ROW);
        for (int64_t k = 0; k < run; k++)
            b[k] = a[k];
    }
}
