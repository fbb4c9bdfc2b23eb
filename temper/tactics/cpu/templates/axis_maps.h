/* Index arithmetic of one axis, as the numpy references do it: what a kernel calls to make its tables at run time.
 * No libc: floor is written out, and is exact for every position an axis can have. */

#define HALF_PIXEL (((float)i + 0.5f) / s - 0.5f)

INLINE int64_t floor_of(double x)
{
    const int64_t t = (int64_t)x;
    return t - ((double)t > x);
}

/* What lies within 1e-6 of a tie is the tie. */
INLINE double tie(double at)
{
    const double half = (double)floor_of(at) + 0.5, off = at - half;
    return off < 1e-6 && off > -1e-6 ? half : at;
}

INLINE int64_t limited(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

INLINE int64_t modulo(int64_t i, int64_t n)
{
    const int64_t r = i % n;
    return r < 0 ? r + n : r;
}

/* Mirrored at both ends, which are not repeated, as often as it takes. */
INLINE int64_t reflected(int64_t i, int64_t n)
{
    if (n < 2) return 0;
    const int64_t m = modulo(i, 2 * (n - 1));
    return m < n ? m : 2 * (n - 1) - m;
}
