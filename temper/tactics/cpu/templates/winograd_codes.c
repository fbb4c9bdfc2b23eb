/* Winograd convolution F(4 x 4, 3 x 3) of 8-bit codes in exact integer arithmetic, stride 1, channels-last.
 *
 * With points 0, 1, -1, 2, -2, infinity, y = A^T [(G w G^T) . (B^T x B)] A has integers in A and B; the rows of 24 G are integers times 6, -4,
 * -4, 1, 1, 24. These factors are left out of U (int16) and put into A, so that what comes out is 576 y, modulo 2^32 as all sums are. 576 is
 * 9 * 64: 9 has an inverse modulo 2^32, and the 26 bits that remain above the 64 are y, where |y| < 2^25. V (int16) is within 100 * 255.
 *
 * Defined by the tactic: BATCH H W OH OW; IC (a multiple of 2 VL) OC (of VL); PT PL pads; XLD OLD pixel strides; in_t, ZERO_POINT; what
 * points.h needs. Workspaces are as in winograd.c, V in pairs. */
#define SIDE 6
#define V_STEP ODD_LINES((int64_t)TB * LDV)
#define TILES_Y ((OH + 3) / 4)
#define TILES_X ((OW + 3) / 4)

typedef int16_t vs __attribute__((vector_size(4 * VL)));
typedef in_t vc __attribute__((vector_size(2 * VL)));
typedef in_t vc_any __attribute__((vector_size(2 * VL), aligned(1), may_alias));

static const in_t padding[IC] __attribute__((aligned(64))) = {[0 ... IC - 1] = ZERO_POINT};

INLINE void bt(const vs *x, vs *t) {
  const vs e = x[4] - 4 * x[2], o = x[3] - 4 * x[1], f = x[4] - x[2], p = 2 * (x[3] - x[1]);
  t[0] = 4 * (x[0] - x[2]) + f;
  t[1] = e + o;
  t[2] = e - o;
  t[3] = f + p;
  t[4] = f - p;
  t[5] = 4 * (x[1] - x[3]) + (x[5] - x[3]);
}
INLINE void at(const vu *m, vu *y) {
  const vu s = m[1] + m[2], d = m[1] - m[2], q = m[3] + m[4], r = m[3] - m[4];
  y[0] = 6 * m[0] - 4 * s + q;
  y[1] = 2 * (r - 2 * d);
  y[2] = 4 * (q - s);
  y[3] = 4 * (2 * r - d) + 24 * m[5];
}

/* One tile into its row of each point; pixels outside the image read padding. */
static void input_tile(const in_t *x, int64_t tile, int32_t *out, const int64_t *v) {
  (void)v;
  const int64_t tx = tile % TILES_X, ty = tile / TILES_X % TILES_Y, img = tile / (TILES_X * TILES_Y);
  const in_t *px[SIDE][SIDE];
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      const int64_t iy = ty * 4 - PT + i, ix = tx * 4 - PL + j;
      px[i][j] = iy >= 0 && iy < H && ix >= 0 && ix < W ? x + ((img * H + iy) * W + ix) * XLD : padding;
    }
  for (int c = 0; c < IC; c += 2 * VL) {
    vs half[SIDE][SIDE];
    UNROLL for (int j = 0; j < SIDE; j++) {
      vs a[SIDE];
      UNROLL for (int i = 0; i < SIDE; i++) a[i] = __builtin_convertvector((vc)*(const vc_any *)(px[i][j] + c), vs) - ZERO_POINT;
      bt(a, half[j]);
    }
    UNROLL for (int i = 0; i < SIDE; i++) {
      vs a[SIDE], t[SIDE];
      UNROLL for (int j = 0; j < SIDE; j++) a[j] = half[j][i];
      bt(a, t);
      UNROLL for (int j = 0; j < SIDE; j++) sti(out + (i * SIDE + j) * V_STEP + c / 2, (vi)t[j]);
    }
  }
}

/* Inverse transform, bias and epilogue of VL channels of one tile. */
INLINE void output_vector(const int32_t *m, void *y, vi bias, const epi_t *e, int64_t img, int64_t oy, int64_t ox, int64_t c, const int64_t *v) {
  (void)v;
  vu half[SIDE][4], out[4][4];
  UNROLL for (int j = 0; j < SIDE; j++) {
    vu a[SIDE];
    UNROLL for (int i = 0; i < SIDE; i++) a[i] = (vu)ldi(m + (i * SIDE + j) * M_STEP);
    at(a, half[j]);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    vu a[SIDE];
    UNROLL for (int j = 0; j < SIDE; j++) a[j] = half[j][i];
    at(a, out[i]);
  }
  const int64_t rows = OH - oy < 4 ? OH - oy : 4, cols = OW - ox < 4 ? OW - ox : 4;
  UNROLL for (int i = 0; i < 4; i++)
    UNROLL for (int j = 0; j < 4; j++) {
      if (i >= rows || j >= cols) continue;
      const int64_t pix = (img * OH + oy + i) * OW + ox + j;
      const vi sum = ((vi)(out[i][j] * 954437177u) >> 6) + bias; /* 9 * 954437177 = 1 modulo 2^32 */
      epi_store(y, pix * OLD + c, epilogue(sum, e, img, pix, c, VL), VL);
    }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int32_t *u = p[1], *bias = p[2];
  int32_t *vs_ = p[3], *ms = vs_ + POINTS * V_STEP;
  int64_t lo, hi;
  epi_t e;
  epi_init(&e, p);
  share((int64_t)BATCH * TILES_Y * TILES_X, part, parts, &lo, &hi);
  const int64_t blocks = (hi - lo + TB - 1) / TB;
  for (int64_t i = 0; i < blocks; i++) {
    const int64_t t0 = lo + (hi - lo) * i / blocks, t1 = lo + (hi - lo) * (i + 1) / blocks;
    for (int64_t t = t0; t < t1; t++) input_tile(p[0], t, vs_ + (t - t0) * LDV, v);
    for (int64_t ob = 0; ob < OC_BLOCKS; ob++) {
      products(vs_, V_STEP, t1 - t0, ob, u, ms);
      for (int64_t t = t0; t < t1; t++) {
        const int64_t tx = t % TILES_X, ty = t / TILES_X % TILES_Y, img = t / (TILES_X * TILES_Y);
        for (int64_t c = ob * NB * VL; c < (ob + 1) * NB * VL && c < OC; c += VL)
          output_vector(ms + (t - t0) * LDM + (c - ob * NB * VL), p[4], ldi(bias + c), &e, img, ty * 4, tx * 4, c, v);
      }
    }
  }
}
