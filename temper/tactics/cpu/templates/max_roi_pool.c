/* Largest elements of ROWS x COLUMNS bins of every region; 0 for an empty bin.
 *
 * p: x [IMAGES, CHANNELS, HEIGHT, WIDTH], regions [REGIONS, 5] of image x1 y1 x2 y2, results [REGIONS, CHANNELS, ROWS, COLUMNS]. Corners
 * are rounded to whole elements, both included; bins' edges are computed in float, as ONNX Runtime does. */

INLINE int64_t whole(float x)
{
    const double a = floor_of(within_reach(abs_of((double)x) + 0.5));
    return (int64_t)(x < 0 ? -a : a);
}

/* [*low, *high) of a bin along one axis. */
INLINE void edges(int64_t from, int64_t to, int64_t bin, int64_t bins, int64_t limit, int64_t *low, int64_t *high)
{
    const int64_t size = to - from + 1 > 1 ? to - from + 1 : 1;
    const float step = (float)size / (float)bins, end = (float)(bin + 1) * step;
    const int64_t a = from + (int64_t)floor_of((double)((float)bin * step));
    const int64_t below = (int64_t)floor_of((double)end), b = from + below + ((double)below < (double)end);
    *low = a < 0 ? 0 : a > limit ? limit : a;
    *high = b < 0 ? 0 : b > limit ? limit : b;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t channels = CHANNELS, height = HEIGHT, width = WIDTH;
    int64_t lo, hi;
    share(REGIONS * channels * ROWS * COLUMNS, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const int64_t column = u % COLUMNS, row = u / COLUMNS % ROWS, c = u / (ROWS * COLUMNS) % channels;
        const T *region = (const T *)p[1] + u / (ROWS * COLUMNS * channels) * 5;
        const int64_t image = whole((float)region[0]);
        int64_t corner[4], y0, y1, x0, x1;
        T best = 0;
        for (int k = 0; k < 4; k++)
            corner[k] = whole((float)region[k + 1] * SCALE);
        edges(corner[1], corner[3], row, ROWS, height, &y0, &y1);
        edges(corner[0], corner[2], column, COLUMNS, width, &x0, &x1);
        if (image < 0 || image >= IMAGES)
            y1 = y0;
        const T *x = (const T *)p[0] + (image * channels + c) * height * width;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t i = x0; i < x1; i++)
                if ((y == y0 && i == x0) || x[y * width + i] > best)
                    best = x[y * width + i];
        ((T *)p[2])[u] = best;
    }
}
