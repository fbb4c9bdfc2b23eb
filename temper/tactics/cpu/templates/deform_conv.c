/* Deformable convolution, channels-first: tap t of a window lies where OFFSET moves it, and counts MASK times.
 *
 * x [BATCH, CHANNELS, SIZES..], weights [FEATURES, EACH, TAPS], offsets [BATCH, SHIFTED, TAPS, RANK, OUT..], mask [BATCH, SHIFTED, TAPS,
 * OUT..]; EACH channels a group of GROUPS, CHANNELS / SHIFTED channels move alike. Values between elements are interpolated linearly,
 * those outside are 0. LANES neighbouring positions are taken together: a group's corners, then its samples channel by channel, then their
 * products with the weights, BLOCK features at a time. Workspace, in double: samples [CHANNELS, TAPS, LANES], and weights and offsets of
 * corners [TAPS, CORNERS, LANES]. P_BIAS, P_MASK: 0 where absent. */

#define LANES 16
#define BLOCK 4

/* The corners around tap `t` of one position: weight[c * LANES] and where[c * LANES]. */
INLINE void corners_of(const int64_t *start, int64_t t, const float *move, int64_t step, double scale, const int64_t *sizes,
                       const int64_t *strides, double *weight, int64_t *where)
{
    const int64_t kernel[] = KERNEL, spread[] = SPREAD;
    int corners = 1;
    weight[0] = scale, where[0] = 0;
    for (int a = RANK - 1; a >= 0; t /= kernel[a], a--) {
        const double x = within_reach((double)(start[a] + t % kernel[a] * spread[a]) + (double)move[a * step]);
        const double low = floor_of(x), fraction = x - low;
        const int64_t i = (int64_t)low;
        const int below = i >= 0 && i < sizes[a], above = i >= -1 && i + 1 < sizes[a];
        for (int c = 0; c < corners; c++) {
            const double w = weight[c * LANES];
            const int64_t at = where[c * LANES];
            weight[(corners + c) * LANES] = above ? w * fraction : 0;
            where[(corners + c) * LANES] = at + (above ? (i + 1) * strides[a] : 0);
            weight[c * LANES] = below ? w * (1 - fraction) : 0;
            where[c * LANES] = at + (below ? i * strides[a] : 0);
        }
        corners *= 2;
    }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t steps[] = STEPS, pads[] = PADS, sizes[] = SIZES, strides[] = STRIDES, out[] = OUT;
    const int64_t positions = POSITIONS, plane = PLANE, blocks = (positions + LANES - 1) / LANES;
    const float *w = p[1];
    double *samples = p[P_OUT + 1], *weight = samples + CHANNELS * TAPS * LANES;
    int64_t *where = (int64_t *)(weight + TAPS * CORNERS * LANES);
    int64_t lo, hi;
    share(BATCH * blocks, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t image = u / blocks, first = u % blocks * LANES;
        const int64_t count = positions - first < LANES ? positions - first : LANES;
        for (int64_t s = 0; s < SHIFTED; s++) {
            for (int64_t j = 0; j < LANES; j++) {
                const int64_t at = first + (j < count ? j : 0);
                int64_t start[RANK], rest = at;
                for (int a = RANK - 1; a >= 0; rest /= out[a], a--)
                    start[a] = rest % out[a] * steps[a] - pads[a];
                for (int64_t t = 0; t < TAPS; t++) {
                    const int64_t tap = (image * SHIFTED + s) * TAPS + t;
                    const double scale = P_MASK ? (double)((const float *)p[P_MASK])[tap * positions + at] : 1;
                    corners_of(start, t, (const float *)p[2] + tap * RANK * positions + at, positions, scale, sizes, strides,
                               weight + t * CORNERS * LANES + j, where + t * CORNERS * LANES + j);
                }
            }
            for (int64_t ch = s * (CHANNELS / SHIFTED); ch < (s + 1) * (CHANNELS / SHIFTED); ch++) {
                const float *x = (const float *)p[0] + (image * CHANNELS + ch) * plane;
                for (int64_t t = 0; t < TAPS; t++) {
                    double sum[LANES] = {0};
                    for (int c = 0; c < CORNERS; c++) {
                        const double *wc = weight + (t * CORNERS + c) * LANES;
                        const int64_t *at = where + (t * CORNERS + c) * LANES;
                        for (int j = 0; j < LANES; j++)
                            sum[j] += wc[j] != 0 ? wc[j] * (double)x[at[j]] : 0;
                    }
                    for (int j = 0; j < LANES; j++)
                        samples[(ch * TAPS + t) * LANES + j] = sum[j];
                }
            }
        }
        for (int64_t g = 0; g < GROUPS; g++)
            for (int64_t f = g * (FEATURES / GROUPS), end = f + FEATURES / GROUPS; f < end; f += BLOCK) {
                const double *seen = samples + g * EACH * TAPS * LANES;
                const float *row[BLOCK];
                double sum[BLOCK][LANES];
                for (int b = 0; b < BLOCK; b++) {
                    const int64_t feature = f + b < end ? f + b : end - 1;
                    const double bias = P_BIAS ? (double)((const float *)p[P_BIAS])[feature] : 0;
                    row[b] = w + feature * EACH * TAPS;
                    for (int j = 0; j < LANES; j++)
                        sum[b][j] = bias;
                }
                for (int64_t k = 0; k < EACH * TAPS; k++, seen += LANES)
                    for (int b = 0; b < BLOCK; b++)
                        for (int j = 0; j < LANES; j++)
                            sum[b][j] = FMA((double)row[b][k], seen[j], sum[b][j]);
                for (int b = 0; b < BLOCK && f + b < end; b++) {
                    float *y = (float *)p[P_OUT] + (image * FEATURES + f + b) * positions + first;
                    for (int64_t j = 0; j < count; j++)
                        y[j] = (float)sum[b][j];
                }
            }
    }
}
