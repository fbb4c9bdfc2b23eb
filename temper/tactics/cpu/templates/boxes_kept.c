/* Greedy suppression of overlapping boxes, one (image, class) at a time, and then all survivors packed to the front.
 *
 * PICK: the boxes that pass the score threshold make a heap with the best score at its root. The root is taken off; it is kept unless
 * its overlap with a box kept before is above IOU. Overlap is intersection over union, each operation rounded as in the reference, so
 * that both decide alike. PACK: one thread writes (image, class, box) of the survivors, zeros behind them, and their number.
 * found: for every pair its number of survivors, then KEEP positions. Workspace: BOXES positions, then 5 floats a kept box. */

/* Box i comes before box j: a higher score, then a lower position; NaN is last. */
INLINE int before(const float *s, int32_t i, int32_t j)
{
    const float a = s[i], b = s[j];
    return a > b || (b != b && a == a) || ((a == b || (a != a && b != b)) && i < j);
}

INLINE void sink(const float *s, int32_t *heap, int32_t n, int32_t h, int32_t i)
{
    for (int32_t child; (child = 2 * h + 1) < n; h = child) {
        if (child + 1 < n && before(s, heap[child + 1], heap[child]))
            child++;
        if (!before(s, heap[child], i))
            break;
        heap[h] = heap[child];
    }
    heap[h] = i;
}

/* Corners with y1 <= y2 and x1 <= x2, and the area. */
INLINE void corners(const float *b, float *k)
{
    float y1 = b[0], x1 = b[1], y2 = b[2], x2 = b[3];
    if (CENTER) {
        const float x = b[0], y = b[1], w = b[2] / 2, h = b[3] / 2;
        y1 = y - h, x1 = x - w, y2 = y + h, x2 = x + w;
    }
    k[0] = y1 < y2 ? y1 : y2, k[1] = x1 < x2 ? x1 : x2;
    k[2] = y1 < y2 ? y2 : y1, k[3] = x1 < x2 ? x2 : x1;
    k[4] = (k[2] - k[0]) * (k[3] - k[1]);
}

INLINE int suppressed(const float *k, const float *o)
{
    const float top = k[0] > o[0] ? k[0] : o[0], bottom = k[2] < o[2] ? k[2] : o[2];
    const float left = k[1] > o[1] ? k[1] : o[1], right = k[3] < o[3] ? k[3] : o[3];
    const float high = bottom - top, wide = right - left;
    const float shared = (high > 0 ? high : 0) * (wide > 0 ? wide : 0);
    const float all = k[4] + o[4] - shared;
    const float ratio = k[4] > 0 && all > 0 && shared > 0 ? shared / all : 0;
    return !(ratio <= IOU);
}

EXPORT void PICK(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    int32_t *heap = p[5];
    float *kept = (float *)(heap + BOXES);
    int64_t lo, hi;
    share(PAIRS, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const float *s = (const float *)p[1] + u * BOXES, *boxes = (const float *)p[0] + u / CLASSES * BOXES * 4;
        int32_t *found = (int32_t *)p[4] + u * (1 + KEEP), n = 0, count = 0;
        for (int32_t i = 0; i < BOXES; i++)
            if (PASSES(s[i]))
                heap[n++] = i;
        for (int32_t h = n / 2 - 1; h >= 0; h--)
            sink(s, heap, n, h, heap[h]);
        while (n > 0 && count < KEEP) {
            const int32_t best = heap[0];
            if (--n > 0)
                sink(s, heap, n, 0, heap[n]);
            float *now = kept + 5 * count;
            corners(boxes + 4 * best, now);
            int gone = 0;
            for (int32_t k = 0; k < count && !gone; k++)
                gone = suppressed(kept + 5 * k, now);
            if (!gone)
                found[1 + count++] = best;
        }
        found[0] = count;
    }
}

EXPORT void PACK(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v, (void)parts;
    if (part != 0)
        return;
    int64_t *rows = p[2], total = 0;
    for (int64_t u = 0; u < PAIRS; u++) {
        const int32_t *found = (const int32_t *)p[4] + u * (1 + KEEP);
        for (int32_t k = 0; k < found[0]; k++, total++) {
            rows[3 * total] = u / CLASSES, rows[3 * total + 1] = u % CLASSES, rows[3 * total + 2] = found[1 + k];
        }
    }
    for (int64_t i = 3 * total; i < (int64_t)3 * PAIRS * KEEP; i++)
        rows[i] = 0;
    *(int64_t *)p[3] = total;
}
