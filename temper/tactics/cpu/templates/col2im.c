/* Columns to images: [PLANES, TAPS, WINDOWS] to [PLANES, IMAGE..], each image element the sum over the windows that cover it.
 *
 * Per axis: BLOCK positions SPREAD apart, COUNTS windows STEPS apart, PADS elements before the image. Sums run in the order of the
 * positions, in A: double for floats, unsigned for integers, which wrap. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t block[] = BLOCK, steps[] = STEPS, spread[] = SPREAD, pads[] = PADS, image[] = IMAGE, counts[] = COUNTS;
    const int64_t windows = WINDOWS, pixels = PIXELS;
    T *y = p[1];
    int64_t lo, hi;
    share(PLANES * pixels, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *x = (const T *)p[0] + u / pixels * TAPS * windows;
        int64_t at[RANK], rest = u % pixels;
        A sum = 0;
        for (int a = RANK - 1; a >= 0; rest /= image[a], a--)
            at[a] = rest % image[a] + pads[a];
        for (int64_t k = 0; k < TAPS; k++) {
            int64_t left = k, window = 0, run = 1;
            int covers = 1;
            for (int a = RANK - 1; a >= 0; left /= block[a], run *= counts[a], a--) {
                const int64_t start = at[a] - left % block[a] * spread[a];
                covers &= start >= 0 && start % steps[a] == 0 && start / steps[a] < counts[a];
                window += start / steps[a] * run;
            }
            if (covers)
                sum += (A)x[k * windows + window];
        }
        y[u] = (T)sum;
    }
}
