/* Samples of [BATCH, CHANNELS, SIZES..] at POINTS positions an image; position axes run from the last spatial axis to the first.
 *
 * EACH taps an axis: 1 nearest, 2 linear, 4 cubic. PADDING: 0 zeros outside, 1 the border's elements, 2 mirrors; ALIGN: -1 and 1 are the
 * centres of the outermost elements, otherwise their edges. LANES neighbouring points are taken together: first the weights and offsets
 * of their taps, then every channel. A tap of weight 0 is not counted, whatever lies there. */

#define LANES 16

/* The taps of one point along axis `a` of `size` elements, `stride` apart. */
INLINE void taps_of(double g, double size, int64_t stride, double *weight, int64_t *at)
{
    const double low = ALIGN ? 0 : -0.5, high = ALIGN ? size - 1 : size - 0.5;
    double x = within_reach(ALIGN ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2);
    if (EACH < 4 && PADDING == 1)
        x = x < 0 ? 0 : x > size - 1 ? size - 1 : x;
    if (EACH < 4 && PADDING == 2)
        x = mirrored(x, low, high);
    const double base = EACH == 1 ? nearest_of(x) : floor_of(x);
    for (int k = 0; k < EACH; k++) {
        double near = EACH == 1 ? base : base + (k - (EACH / 2 - 1));
        const double far = abs_of(near - x);
        weight[k] = EACH == 1 ? 1 : EACH == 2 ? (far < 1 ? 1 - far : 0) : keys(far);
        if (EACH == 4 && PADDING == 2)
            near = nearest_of(mirrored(near, low, high));
        if (PADDING == 0 && (near < 0 || near > size - 1))
            weight[k] = 0;
        near = near < 0 ? 0 : near > size - 1 ? size - 1 : near;
        at[k] = (int64_t)near * stride;
    }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t sizes[] = SIZES, strides[] = STRIDES, points = POINTS, channels = CHANNELS, plane = PLANE;
    const int64_t blocks = (points + LANES - 1) / LANES;
    int64_t lo, hi;
    share(BATCH * blocks, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t image = u / blocks, first = u % blocks * LANES;
        const int count = points - first < LANES ? (int)(points - first) : LANES;
        const G *grid = (const G *)p[1] + (image * points + first) * RANK;
        double w[TAPS][LANES];
        int64_t offset[TAPS][LANES];
        for (int j = 0; j < LANES; j++) {
            double weight[RANK][EACH];
            int64_t at[RANK][EACH];
            for (int a = 0; a < RANK; a++)
                taps_of(j < count ? (double)grid[j * RANK + RANK - 1 - a] : 0, (double)sizes[a], strides[a], weight[a], at[a]);
            for (int t = 0; t < TAPS; t++) {
                double product = 1;
                int64_t where = 0;
                for (int a = RANK - 1, left = t; a >= 0; left /= EACH, a--) {
                    product *= weight[a][left % EACH];
                    where += at[a][left % EACH];
                }
                w[t][j] = product, offset[t][j] = where;
            }
        }
        for (int64_t c = 0; c < channels; c++) {
            const T *x = (const T *)p[0] + (image * channels + c) * plane;
            T *y = (T *)p[2] + (image * channels + c) * points + first;
            double sum[LANES] = {0};
            for (int t = 0; t < TAPS; t++)
                for (int j = 0; j < LANES; j++)
                    sum[j] += w[t][j] != 0 ? w[t][j] * (double)x[offset[t][j]] : 0;
            for (int j = 0; j < count; j++)
                y[j] = (T)sum[j];
        }
    }
}
