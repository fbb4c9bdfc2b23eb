/* Maxima of windows over RANK spatial axes of [PLANES, SIZES..], and where in the whole tensor they are.
 *
 * Per axis: KERNEL positions SPREAD apart, windows STEPS apart, PADS elements before the data; OUT windows. STRIDES: elements of the
 * data; COUNTED: what a position adds to the index that is stored. The first of equal maxima counts; NaN is above all numbers. A window
 * with nothing inside gives LOWEST and -1. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t kernel[] = KERNEL, steps[] = STEPS, spread[] = SPREAD, pads[] = PADS, sizes[] = SIZES, out[] = OUT;
    const int64_t strides[] = STRIDES, counted[] = COUNTED, outputs = OUTPUTS;
    T *y = p[1];
    int64_t *index = p[2];
    int64_t lo, hi;
    share(PLANES * outputs, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *x = (const T *)p[0] + u / outputs * PLANE;
        int64_t start[RANK], rest = u % outputs, where = -1;
        T best = (T)LOWEST;
        for (int a = RANK - 1; a >= 0; a--) {
            start[a] = rest % out[a] * steps[a] - pads[a];
            rest /= out[a];
        }
        for (int64_t k = 0; k < TAPS; k++) {
            int64_t left = k, at = 0, count = 0;
            int inside = 1;
            for (int a = RANK - 1; a >= 0; a--) {
                const int64_t i = start[a] + left % kernel[a] * spread[a];
                left /= kernel[a];
                inside &= i >= 0 && i < sizes[a];
                at += i * strides[a];
                count += i * counted[a];
            }
            if (inside && (where < 0 || x[at] > best || (FLOATS && x[at] != x[at] && best == best)))
                best = x[at], where = count;
        }
        y[u] = best;
        index[u] = where < 0 ? -1 : u / outputs * PLANE + where;
    }
}
