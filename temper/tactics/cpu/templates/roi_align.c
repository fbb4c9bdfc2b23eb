/* Means (or, MAXIMUM, largest weighted neighbours) of samples on a grid in each of ROWS x COLUMNS bins of every region.
 *
 * p: x [IMAGES, CHANNELS, HEIGHT, WIDTH], regions [REGIONS, 4] of x1 y1 x2 y2, their images, results [REGIONS, CHANNELS, ROWS, COLUMNS].
 * GRID samples an axis, or as many as a bin has elements where it is 0. HALF: coordinates are those of corners, and regions may have any
 * size; otherwise of centres, and they are at least 1 x 1. A sample more than 1 outside is 0. */

/* Where samples along one axis lie. */
typedef struct { double start, step; int64_t count; } axis_t;

INLINE axis_t axis_of(double from, double to, int64_t bins)
{
    double size = to - from;
    if (!HALF && !(size > 1))
        size = 1;
    const double step = size / (double)bins, whole = floor_of(within_reach(step));
    const int64_t count = GRID ? GRID : (int64_t)whole + (whole < step);
    return (axis_t){from, step, count > 0 ? count : 0};
}

/* Neighbours of sample i of a bin and the weight of the upper one; 0 where it is outside. */
INLINE int neighbours(axis_t a, int64_t bin, int64_t i, int64_t size, int64_t *low, int64_t *high, double *weight)
{
    const double x = a.start + (double)bin * a.step + ((double)i + 0.5) * a.step / (double)a.count;
    if (!(x >= -1 && x <= (double)size))
        return 0;
    const double at = x < 0 ? 0 : x > (double)(size - 1) ? (double)(size - 1) : x;
    *low = (int64_t)at;
    *high = *low + 1 < size ? *low + 1 : size - 1;
    *weight = at - (double)*low;
    return 1;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t *batch = p[2], channels = CHANNELS, height = HEIGHT, width = WIDTH;
    int64_t lo, hi;
    share(REGIONS * ROWS * COLUMNS, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t r = u / (ROWS * COLUMNS), row = u / COLUMNS % ROWS, column = u % COLUMNS;
        const T *region = (const T *)p[1] + r * 4;
        double corner[4];
        for (int k = 0; k < 4; k++)
            corner[k] = (double)region[k] * (double)SCALE - (HALF ? 0.5 : 0);
        const axis_t ay = axis_of(corner[1], corner[3], ROWS), ax = axis_of(corner[0], corner[2], COLUMNS);
        const int64_t samples = ay.count * ax.count;
        for (int64_t c = 0; c < channels; c++) {
            double total = 0;
            if (batch[r] >= 0 && batch[r] < IMAGES) {
                const T *x = (const T *)p[0] + (batch[r] * channels + c) * height * width;
                for (int64_t i = 0; i < ay.count; i++) {
                    int64_t y0 = 0, y1 = 0;
                    double fy = 0;
                    const int in_y = neighbours(ay, row, i, height, &y0, &y1, &fy);
                    for (int64_t j = 0; j < ax.count; j++) {
                        int64_t x0 = 0, x1 = 0;
                        double fx = 0, part[4] = {0, 0, 0, 0};
                        if (in_y && neighbours(ax, column, j, width, &x0, &x1, &fx)) {
                            part[0] = (1 - fy) * (1 - fx) * (double)x[y0 * width + x0];
                            part[1] = (1 - fy) * fx * (double)x[y0 * width + x1];
                            part[2] = fy * (1 - fx) * (double)x[y1 * width + x0];
                            part[3] = fy * fx * (double)x[y1 * width + x1];
                        }
#if MAXIMUM
                        for (int k = 0; k < 4; k++)
                            total = (i == 0 && j == 0 && k == 0) || part[k] > total ? part[k] : total;
#else
                        total += part[0] + part[1] + part[2] + part[3];
#endif
                    }
                }
            }
            ((T *)p[3])[((r * channels + c) * ROWS + row) * COLUMNS + column] = (T)(MAXIMUM || !samples ? total : total / (double)samples);
        }
    }
}
