/* Taps of one output index of a resized axis: what a kernel calls to make its tables at run time. Needs axis_maps.h.
 * Each index has `taps` weights for neighbouring input indices from `start` on, all inside the axis where it is that long; indices
 * outside the axis count for its first or last element. */

/* Keys' cubic convolution kernel at distance d >= 0, or the triangle. */
INLINE double tap_weight(double d, int cubic, double a)
{
    if (!cubic) return d < 1.0 ? 1.0 - d : 0.0;
    if (d <= 1.0) return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    return d < 2.0 ? ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a : 0.0;
}

INLINE int64_t first_tap(int64_t first, int64_t size, int taps)
{
    const int64_t last = size > taps ? size - taps : 0;
    return first < 0 ? 0 : first < last ? first : last;
}

INLINE void taps_at(float place, int64_t size, int taps, int cubic, double a, int exclude, int32_t *start, float *weight)
{
    const int64_t first = floor_of(place) - (taps / 2 - 1), from = first_tap(first, size, taps);
    double sums[4] = {0}, total = 0;
    for (int t = 0; t < taps; t++) {
        const int64_t at = first + t;
        const double off = (double)at - (double)place;
        double w = tap_weight(off < 0 ? -off : off, cubic, a);
        if (exclude && (at < 0 || at >= size)) w = 0;
        total += w;
        sums[limited(at, size) - from] += w;
    }
    *start = (int32_t)from;
    for (int t = 0; t < taps; t++)
        weight[t] = (float)(exclude ? sums[t] / total : sums[t]);
}

/* Index i of the input alone. */
INLINE void same_tap(int64_t i, int64_t size, int taps, int32_t *start, float *weight)
{
    const int64_t from = first_tap(i, size, taps);
    *start = (int32_t)from;
    for (int t = 0; t < taps; t++)
        weight[t] = from + t == i ? 1.0f : 0.0f;
}
