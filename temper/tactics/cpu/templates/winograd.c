/* Winograd convolution F(MH x MW, 3 x 3), stride 1, FP32, channels-last: y = A^T [(G w G^T) . (B^T x B)] A per tile and channel.
 *
 * Defined by the generator: BATCH H W OH OW (constants or v[i]); IC OC; PT PL pads; XLD OLD pixel strides in elements;
 * MH MW outputs per tile (1, 2 or 4; 1 = no transform along that axis); what points.h needs; SHARED, CHUNK; the constants W4_* of the
 * points for m = 4; argument numbers P_X P_U P_Y P_WS P_SH P_BIAS (P_BIAS -1: none).
 *
 * Workspaces: V[point][tile][LDV] (transformed input) and M[point][tile][NB * VL] (products). */
#define AH (MH + 2)
#define AW (MW + 2)
#define TILES_Y ((OH + MH - 1) / MH)
#define TILES_X ((OW + MW - 1) / MW)

static const float zeros[(IC + VL - 1) / VL * VL] __attribute__((aligned(64)));

INLINE void bt1(const vf *x, vf *t) { t[0] = x[0]; t[1] = x[1]; t[2] = x[2]; }
INLINE void bt2(const vf *x, vf *t) {
  t[0] = x[0] - x[2];
  t[1] = x[1] + x[2];
  t[2] = x[2] - x[1];
  t[3] = x[3] - x[1];
}
/* Points 0, +-a, +-b, infinity. */
INLINE void bt4(const vf *x, vf *t) {
  const vf a = splat(W4_A), b = splat(W4_B), a2 = splat(-W4_A2), b2 = splat(-W4_B2), s = splat(-W4_SUM), p = splat(W4_PRODUCT);
  vf ea = FMA(b2, x[2], x[4]), oa = FMA(b2, x[1], x[3]), eb = FMA(a2, x[2], x[4]), ob = FMA(a2, x[1], x[3]);
  t[0] = FMA(p, x[0], FMA(s, x[2], x[4]));
  t[1] = FMA(a, oa, ea);
  t[2] = FMA(-a, oa, ea);
  t[3] = FMA(b, ob, eb);
  t[4] = FMA(-b, ob, eb);
  t[5] = FMA(p, x[1], FMA(s, x[3], x[5]));
}
INLINE void at1(const vf *m, vf *y) { y[0] = m[0] + m[1] + m[2]; }
INLINE void at2(const vf *m, vf *y) {
  y[0] = m[0] + (m[1] + m[2]);
  y[1] = m[3] + (m[1] - m[2]);
}
INLINE void at4(const vf *m, vf *y) {
  const vf a = splat(W4_A), b = splat(W4_B), a2 = splat(W4_A2), b2 = splat(W4_B2), a3 = splat(W4_A3), b3 = splat(W4_B3);
  vf sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];
  y[0] = m[0] + (sa + sb);
  y[1] = FMA(a, da, b * db);
  y[2] = FMA(a2, sa, b2 * sb);
  y[3] = FMA(a3, da, FMA(b3, db, m[5]));
}
/* One vector of channels of one tile: px[i][j] + c are the pixels, out + point * step the results. */
INLINE void input_vector(const float *const px[AH][AW], int64_t c, int n, float *out, int64_t step) {
  vf half[AW][AH];
  UNROLL for (int j = 0; j < AW; j++) {
    vf x[AH];
    UNROLL for (int i = 0; i < AH; i++) x[i] = ldx(px[i][j] + c, n);
    PASTE(bt, MH)(x, half[j]);
  }
  UNROLL for (int i = 0; i < AH; i++) {
    vf x[AW], t[AW];
    UNROLL for (int j = 0; j < AW; j++) x[j] = half[j][i];
    PASTE(bt, MW)(x, t);
    UNROLL for (int j = 0; j < AW; j++) st(out + (i * AW + j) * step + c, t[j]);
  }
}

/* Channels [c0, c1) of one tile (c0 a multiple of VL) into row `out` of each point; pixels outside the image read a row of zeros. */
static void input_tile(const float *x, int64_t tile, int64_t c0, int64_t c1, float *out, int64_t step, const int64_t *v) {
  char aligned[64] __attribute__((aligned(64))); /* else clang spills vectors to slots that straddle two cache lines */
  __asm__ volatile("" : : "r"(aligned) : "memory");
  int64_t tx = tile % TILES_X, ty = tile / TILES_X % TILES_Y, img = tile / (TILES_X * TILES_Y);
  const float *px[AH][AW];
  for (int i = 0; i < AH; i++)
    for (int j = 0; j < AW; j++) {
      int64_t iy = ty * MH - PT + i, ix = tx * MW - PL + j;
      px[i][j] = iy >= 0 && iy < H && ix >= 0 && ix < W ? x + ((img * H + iy) * W + ix) * XLD : zeros;
    }
  int64_t c = c0;
  for (; c + VL <= c1; c += VL) input_vector(px, c, VL, out, step);
  if (c < c1) input_vector(px, c, (int)(c1 - c), out, step);
}

INLINE void output_vector(const float *m, float *y, const float *bias, const epi_t *e, int64_t img, int64_t oy, int64_t ox, int64_t c, int n,
                          const int64_t *v) {
  vf half[AW][MH], out[MH][MW];
  UNROLL for (int j = 0; j < AW; j++) {
    vf x[AH];
    UNROLL for (int i = 0; i < AH; i++) x[i] = ld(m + (i * AW + j) * M_STEP);
    PASTE(at, MH)(x, half[j]);
  }
  UNROLL for (int i = 0; i < MH; i++) {
    vf x[AW];
    UNROLL for (int j = 0; j < AW; j++) x[j] = half[j][i];
    PASTE(at, MW)(x, out[i]);
  }
  vf b = P_BIAS >= 0 ? ldx(bias + c, n) : (vf){};
  int64_t rows = OH - oy < MH ? OH - oy : MH, cols = OW - ox < MW ? OW - ox : MW;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) {
      int64_t pix = (img * OH + oy + i) * OW + ox + j;
      vf r = P_BIAS >= 0 ? out[i][j] + b : out[i][j];
      stx(y + pix * OLD + c, epilogue(r, e, img, pix, c, n), n);
    }
}

/* Inverse transform and epilogue of tiles [t0, t0 + tiles) and channel block ob. */
static void outputs(const float *m, float *y, const float *bias, const epi_t *e, int64_t t0, int64_t tiles, int64_t ob, const int64_t *v) {
  for (int64_t t = 0; t < tiles; t++, m += LDM) {
    int64_t tile = t0 + t, tx = tile % TILES_X, ty = tile / TILES_X % TILES_Y, img = tile / (TILES_X * TILES_Y);
    for (int b = 0; b < NB; b++) {
      int64_t c = (ob * NB + b) * VL;
      if (c + VL <= OC) output_vector(m + b * VL, y, bias, e, img, ty * MH, tx * MW, c, VL, v);
      else if (c < OC) output_vector(m + b * VL, y, bias, e, img, ty * MH, tx * MW, c, (int)(OC - c), v);
    }
  }
}

#if SHARED
/* Few tiles, heavy weights: transform once for all threads, then split over output channels so that each thread reads only its weights. */
#define V_STEP ODD_LINES((int64_t)BATCH * TILES_Y * TILES_X * LDV)

EXPORT void PASTE(ENTRY, _input)(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t chunks = (IC + CHUNK - 1) / CHUNK;
  int64_t lo, hi;
  share((int64_t)BATCH * TILES_Y * TILES_X * chunks, part, parts, &lo, &hi);
  for (int64_t i = lo; i < hi; i++) {
    int64_t tile = i / chunks, c0 = i % chunks * CHUNK, c1 = c0 + CHUNK < IC ? c0 + CHUNK : IC;
    input_tile(p[P_X], tile, c0, c1, (float *)p[P_SH] + tile * LDV, V_STEP, v);
  }
}

EXPORT void PASTE(ENTRY, _output)(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t total = (int64_t)BATCH * TILES_Y * TILES_X, blocks = (total + TB - 1) / TB;
  int64_t lo, hi;
  epi_t e;
  epi_init(&e, p);
  share(blocks * OC_BLOCKS, part, parts, &lo, &hi);
  for (int64_t i = lo; i < hi; i++) {
    int64_t ob = i / blocks, block = i % blocks, t0 = total * block / blocks, t1 = total * (block + 1) / blocks;
    products((const float *)p[P_SH] + t0 * LDV, V_STEP, t1 - t0, ob, p[P_U], p[P_WS]);
    outputs(p[P_WS], p[P_Y], P_BIAS >= 0 ? p[P_BIAS < 0 ? 0 : P_BIAS] : 0, &e, t0, t1 - t0, ob, v);
  }
}
#else
/* Many tiles: each thread transforms its own blocks and no barrier is needed. */
#define V_STEP ODD_LINES((int64_t)TB * LDV)

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  float *vs = p[P_WS], *ms = vs + POINTS * V_STEP;
  int64_t lo, hi;
  epi_t e;
  epi_init(&e, p);
  share((int64_t)BATCH * TILES_Y * TILES_X, part, parts, &lo, &hi);
  const int64_t blocks = (hi - lo + TB - 1) / TB;
  for (int64_t i = 0; i < blocks; i++) {
    int64_t t0 = lo + (hi - lo) * i / blocks, t1 = lo + (hi - lo) * (i + 1) / blocks;
    for (int64_t t = t0; t < t1; t++) input_tile(p[P_X], t, 0, IC, vs + (t - t0) * LDV, V_STEP, v);
    for (int64_t ob = 0; ob < OC_BLOCKS; ob++) {
      products(vs, V_STEP, t1 - t0, ob, p[P_U], ms);
      outputs(ms, p[P_Y], P_BIAS >= 0 ? p[P_BIAS < 0 ? 0 : P_BIAS] : 0, &e, t0, t1 - t0, ob, v);
    }
  }
}
#endif
