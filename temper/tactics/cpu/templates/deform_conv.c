/* Deformable convolution, channels-first: tap t of a window lies where OFFSET moves it, and counts MASK times.
 *
 * x [BATCH, CHANNELS, SIZES..], weights [FEATURES, EACH, TAPS], offsets [BATCH, SHIFTED, TAPS, RANK, OUT..], mask [BATCH, SHIFTED, TAPS,
 * OUT..]; EACH channels a group of GROUPS, CHANNELS / SHIFTED channels move alike. Values between elements are interpolated linearly,
 * those outside are 0. Workspace: the CHANNELS x TAPS samples of one position, double. P_BIAS, P_MASK: 0 where absent. */

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t kernel[] = KERNEL, steps[] = STEPS, spread[] = SPREAD, pads[] = PADS, sizes[] = SIZES, strides[] = STRIDES, out[] = OUT;
    const int64_t positions = POSITIONS, plane = PLANE;
    const float *w = p[1];
    double *samples = p[P_OUT + 1];
    int64_t lo, hi;
    share(BATCH * positions, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t image = u / positions, at = u % positions;
        int64_t start[RANK], rest = at;
        for (int a = RANK - 1; a >= 0; rest /= out[a], a--)
            start[a] = rest % out[a] * steps[a] - pads[a];
        for (int64_t s = 0; s < SHIFTED; s++)
            for (int64_t t = 0; t < TAPS; t++) {
                const int64_t tap = (image * SHIFTED + s) * TAPS + t;
                const float *move = (const float *)p[2] + tap * RANK * positions + at;
                double weight[CORNERS];
                int64_t where[CORNERS], left = t;
                int corners = 1;
                weight[0] = P_MASK ? (double)((const float *)p[P_MASK])[tap * positions + at] : 1;
                where[0] = 0;
                for (int a = RANK - 1; a >= 0; left /= kernel[a], a--) {
                    const double x = within_reach((double)(start[a] + left % kernel[a] * spread[a]) + (double)move[a * positions]);
                    const double low = floor_of(x), fraction = x - low;
                    const int64_t i = (int64_t)low;
                    for (int c = 0; c < corners; c++) {
                        const int below = i >= 0 && i < sizes[a], above = i >= -1 && i + 1 < sizes[a];
                        weight[corners + c] = above ? weight[c] * fraction : 0;
                        where[corners + c] = where[c] + (above ? (i + 1) * strides[a] : 0);
                        weight[c] *= below ? 1 - fraction : 0;
                        where[c] += below ? i * strides[a] : 0;
                    }
                    corners *= 2;
                }
                for (int64_t ch = s * (CHANNELS / SHIFTED); ch < (s + 1) * (CHANNELS / SHIFTED); ch++) {
                    const float *x = (const float *)p[0] + (image * CHANNELS + ch) * plane;
                    double sum = 0;
                    for (int c = 0; c < CORNERS; c++)
                        if (weight[c] != 0)
                            sum += weight[c] * (double)x[where[c]];
                    samples[ch * TAPS + t] = sum;
                }
            }
        for (int64_t f = 0; f < FEATURES; f++) {
            const double *seen = samples + f / (FEATURES / GROUPS) * EACH * TAPS;
            double sum = P_BIAS ? (double)((const float *)p[P_BIAS])[f] : 0;
            for (int64_t k = 0; k < EACH * TAPS; k++)
                sum += seen[k] * (double)w[f * EACH * TAPS + k];
            ((float *)p[P_OUT])[(image * FEATURES + f) * positions + at] = (float)sum;
        }
    }
}
