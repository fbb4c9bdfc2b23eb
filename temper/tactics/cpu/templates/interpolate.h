/* Positions between samples, in double: rounding without a library, and the kernels of interpolation. */
#ifndef TEMPER_INTERPOLATE_H
#define TEMPER_INTERPOLATE_H

/* Beyond every axis, and exact in int64_t; NaN counts as below. */
#define FAR_AWAY 1e9
INLINE double within_reach(double x) { return !(x > -FAR_AWAY) ? -FAR_AWAY : x < FAR_AWAY ? x : FAR_AWAY; }

INLINE double floor_of(double x)
{
    const double t = (double)(int64_t)x;
    return t > x ? t - 1 : t;
}

/* To the nearest integer, ties to the even one. */
INLINE double nearest_of(double x)
{
    const double r = floor_of(x + 0.5);
    return r - x == 0.5 && ((int64_t)r & 1) ? r - 1 : r;
}

INLINE double abs_of(double x) { return x < 0 ? -x : x; }

/* Keys' cubic convolution kernel with a = -0.75 at distance d. */
INLINE double keys(double d)
{
    const double a = -0.75;
    d = abs_of(d);
    return d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

/* x folded into [low, high] as by mirrors at both ends. */
INLINE double mirrored(double x, double low, double high)
{
    const double span = high - low, period = 2 * span;
    if (!(span > 0))
        return low;
    double r = abs_of(x - low);
    r -= floor_of(r / period) * period;
    r += r < 0 ? period : r >= period ? -period : 0;
    return (r > span ? period - r : r) + low;
}
#endif
