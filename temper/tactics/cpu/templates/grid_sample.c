/* Samples of [BATCH, CHANNELS, SIZES..] at POINTS positions an image; position axes run from the last spatial axis to the first.
 *
 * EACH taps an axis: 1 nearest, 2 linear, 4 cubic. PADDING: 0 zeros outside, 1 the border's elements, 2 mirrors; ALIGN: -1 and 1 are the
 * centres of the outermost elements, otherwise their edges. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t sizes[] = SIZES, strides[] = STRIDES, points = POINTS, channels = CHANNELS, plane = PLANE;
    int64_t lo, hi;
    share(BATCH * points, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const G *grid = (const G *)p[1] + u * RANK;
        double weight[RANK][EACH];
        int64_t at[RANK][EACH];
        for (int a = 0; a < RANK; a++) {
            const double size = (double)sizes[a], low = ALIGN ? 0 : -0.5, high = ALIGN ? size - 1 : size - 0.5;
            const double g = (double)grid[RANK - 1 - a];
            double x = ALIGN ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2;
            x = within_reach(x);
            if (EACH < 4 && PADDING == 1)
                x = x < 0 ? 0 : x > size - 1 ? size - 1 : x;
            if (EACH < 4 && PADDING == 2)
                x = mirrored(x, low, high);
            for (int k = 0; k < EACH; k++) {
                double near = EACH == 1 ? nearest_of(x) : floor_of(x) + (k - (EACH / 2 - 1));
                const double far = abs_of(near - x);
                weight[a][k] = EACH == 1 ? 1 : EACH == 2 ? (far < 1 ? 1 - far : 0) : keys(far);
                if (EACH == 4 && PADDING == 2)
                    near = nearest_of(mirrored(near, low, high));
                int64_t i = (int64_t)near;
                if (PADDING == 0 && (i < 0 || i >= sizes[a]))
                    weight[a][k] = 0;
                i = i < 0 ? 0 : i >= sizes[a] ? sizes[a] - 1 : i;
                at[a][k] = i * strides[a];
            }
        }
        double w[TAPS];
        int64_t offset[TAPS];
        int taps = 0;
        for (int t = 0; t < TAPS; t++) {
            double product = 1;
            int64_t where = 0;
            for (int a = RANK - 1, left = t; a >= 0; left /= EACH, a--) {
                product *= weight[a][left % EACH];
                where += at[a][left % EACH];
            }
            if (product != 0)
                w[taps] = product, offset[taps++] = where;
        }
        const T *x = (const T *)p[0] + u / points * channels * plane;
        T *y = (T *)p[2] + u / points * channels * points + u % points;
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0;
            for (int t = 0; t < taps; t++)
                sum += w[t] * (double)x[c * plane + offset[t]];
            y[c * points] = (T)sum;
        }
    }
}
