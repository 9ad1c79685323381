/* signature.c - a row as a short vector, so that nearly equal rows have nearly equal vectors.
 *
 * Images: thumbnails of at most 32 x 32 pixels, whose correlation decides. Candidates are found by their
 * averages over 8 x 8 grey cells, the mean taken away and scaled to length 1. Brightness and contrast change
 * neither. A mirrored or moved thumbnail has other averages, so it asks for itself.
 *
 * Other rows: each number centred and scaled by its mean and deviation over all rows, so that no unit of
 * measurement outweighs the others; then scaled to length 1. More than 128 numbers go through a random
 * projection onto 128 (Johnson and Lindenstrauss 1984): a cosine of 0.98 is off by about 0.003 then.
 */
#include "audit_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CELLS       8
#define THUMB       32
#define MOST_DIMS   128
#define MOST_VALUES 65536
#define FEWEST      8

/* Floats of a row; image: the axes say that it is one. */
typedef struct shape {
    size_t values, h, w, c;
    bool image;
} shape;

static shape shape_of(const kd_column *col)
{
    shape f = {.values = kd_column_each(col) * kd_column_width(col), .c = 1};
    if (col->ndims == 2 || col->ndims == 3) {
        f.h = (size_t)col->dims[0], f.w = (size_t)col->dims[1];
        if (col->ndims == 3) f.c = (size_t)col->dims[2];
        f.image = f.h >= CELLS && f.w >= CELLS && f.c <= 4;
    }
    return f;
}

kd_status kd__prints_check(const kd_store *s, int column, kd_err *err)
{
    const kd_column *c = kd_store_column(s, (size_t)column);
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    const char *why = NULL;
    const shape f = shape_of(c);
    if (c->ndims && c->dims[0] < 0)
        why = "its rows differ in length";
    else if (codec && codec->sparse)
        why = "its encoding keeps few classes";
    else if (f.values < FEWEST)
        why = "it has fewer than 8 numbers a row";
    else if (!f.image && f.values > MOST_VALUES)
        why = "it has more than 65536 numbers a row and is no image";
    if (!why) return KD_OK;
    return kd_fail(err, KD_EUNSUPPORTED,
                   "%s: column %s: near duplicates cannot be looked for, %s; name another: --near COLUMN",
                   kd_store_path(s), c->name, why);
}

void kd__prints_release(kd__prints *p)
{
    free(p->plain);
    free(p->thumb);
    *p = (kd__prints){0};
}

/* ---- rows as floats ----------------------------------------------------------------------- */

typedef struct reader {
    kd_store *s;
    kd_cursor *cursor;
    int column;
    shape f;
    float *x; /* (rows of a chunk, values) */
} reader;

static kd_status read_chunk(reader *r, uint32_t chunk, kd_err *err)
{
    const kd_column *c = kd_store_column(r->s, (size_t)r->column);
    const kd_chunk_info *info = kd_store_chunk(r->s, chunk);
    kd_status st = kd_cursor_read_f32(r->cursor, r->column, chunk, r->x, info->rows * kd_column_each(c), err);
    for (size_t i = 0, n = info->rows * r->f.values; i < n && !st; i++)
        if (!isfinite(r->x[i]))
            st = kd_fail(err, KD_ENUMERIC, "%s: column %s, row %llu: a value is not finite",
                         kd_store_path(r->s), c->name, (unsigned long long)(info->first + i / r->f.values));
    return st;
}

static void to_unit(float *v, size_t n)
{
    double ss = 0;
    for (size_t i = 0; i < n; i++) ss += (double)v[i] * (double)v[i];
    const double scale = ss > 1e-12 ? 1 / sqrt(ss) : 0;
    for (size_t i = 0; i < n; i++) v[i] = (float)((double)v[i] * scale);
}

/* ---- images ------------------------------------------------------------------------------- */

/* out: (h, w, c) averages of x (H, W, c) over equal areas; h <= H, w <= W. */
static void shrink(float *out, const float *x, const shape *f, size_t h, size_t w)
{
    const double sy = (double)f->h / (double)h, sx = (double)f->w / (double)w;
    for (size_t i = 0; i < h; i++)
        for (size_t j = 0; j < w; j++) {
            const double y0 = (double)i * sy, y1 = y0 + sy, x0 = (double)j * sx, x1 = x0 + sx;
            double sum[4] = {0};
            for (size_t y = (size_t)y0; y < f->h && (double)y < y1 - 1e-9; y++)
                for (size_t k = (size_t)x0; k < f->w && (double)k < x1 - 1e-9; k++) {
                    const double area = (fmin((double)y + 1, y1) - fmax((double)y, y0)) *
                                        (fmin((double)k + 1, x1) - fmax((double)k, x0));
                    for (size_t c = 0; c < f->c; c++) sum[c] += area * (double)x[(y * f->w + k) * f->c + c];
                }
            for (size_t c = 0; c < f->c; c++) out[(i * w + j) * f->c + c] = (float)(sum[c] / (sy * sx));
        }
}

/* Of a thumbnail, mirrored and moved (what is beyond an edge is the edge). */
static void image_signature(float *out, const kd__prints *p, const uint8_t *thumb, bool mirrored, int dy,
                            int dx)
{
    const shape f = {.h = p->h, .w = p->w, .c = 1};
    const int h = (int)p->h, w = (int)p->w;
    float grey[THUMB * THUMB];
    double mean = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const int from_y = y - dy < 0   ? 0
                               : y - dy < h ? y - dy
                                            : h - 1,
                      from_x = x - dx < 0   ? 0
                               : x - dx < w ? x - dx
                                            : w - 1;
            const uint8_t *at = thumb + (size_t)(from_y * w + (mirrored ? w - 1 - from_x : from_x)) * p->c;
            uint32_t sum = 0;
            for (size_t c = 0; c < p->c; c++) sum += at[c];
            grey[y * w + x] = (float)sum;
        }
    shrink(out, grey, &f, CELLS, CELLS);
    for (size_t i = 0; i < CELLS * CELLS; i++) mean += (double)out[i] / (CELLS * CELLS);
    for (size_t i = 0; i < CELLS * CELLS; i++) out[i] -= (float)mean;
    to_unit(out, CELLS * CELLS);
}

void kd__prints_view(const kd__prints *p, float *out, size_t n, bool mirrored, int dy, int dx, int threads)
{
    const size_t thumb = p->h * p->w * p->c;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++)
        image_signature(out + i * p->dims, p, p->thumb + i * thumb, mirrored, dy, dx);
}

/* Eight bits a value are enough for a correlation; a row's own range is stretched over them. */
static void thumbnail(uint8_t *out, const float *x, const shape *f, size_t h, size_t w)
{
    float small[THUMB * THUMB * 4];
    const size_t n = h * w * f->c;
    shrink(small, x, f, h, w);
    float lo = small[0], hi = small[0];
    for (size_t i = 1; i < n; i++) lo = fminf(lo, small[i]), hi = fmaxf(hi, small[i]);
    for (size_t i = 0; i < n; i++) out[i] = hi > lo ? (uint8_t)lrintf((small[i] - lo) / (hi - lo) * 255) : 0;
}

static kd_status images(kd__prints *p, reader *r, int threads, kd_err *err)
{
    const shape *f = &r->f;
    kd_status st = KD_OK;
    p->dims = CELLS * CELLS;
    p->h = kd_min_size(f->h, THUMB), p->w = kd_min_size(f->w, THUMB), p->c = f->c;
    const size_t thumb = p->h * p->w * p->c;
    p->plain = kd_alloc_aligned(p->rows, p->dims * sizeof(float));
    p->thumb = kd_alloc_aligned(p->rows, thumb);
    if (!p->plain || !p->thumb)
        return kd_fail(err, KD_ENOMEM, "no memory for the thumbnails of %zu rows", p->rows);
    for (uint32_t k = 0; k < kd_store_chunks(r->s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(r->s, k);
        st = read_chunk(r, k, err);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && !st)
        for (uint32_t i = 0; i < (st ? 0 : info->rows); i++)
            thumbnail(p->thumb + (info->first + i) * thumb, r->x + i * f->values, f, p->h, p->w);
    }
    if (!st) kd__prints_view(p, p->plain, p->rows, false, 0, 0, threads);
    return st;
}

/* Pearson's correlation of the overlap of a and b moved by (dy, dx). */
static float correlation(const kd__prints *p, const uint8_t *a, const uint8_t *b, int dy, int dx)
{
    const size_t line = p->w * p->c, n = (p->w - (size_t)abs(dx)) * p->c, h = p->h - (size_t)abs(dy);
    uint32_t sa = 0, sb = 0, saa = 0, sbb = 0, sab = 0; // 4,096 squares of a byte at most
    a += (size_t)(dy < 0 ? -dy : 0) * line + (size_t)(dx < 0 ? -dx : 0) * p->c;
    b += (size_t)(dy > 0 ? dy : 0) * line + (size_t)(dx > 0 ? dx : 0) * p->c;
    for (size_t y = 0; y < h; y++, a += line, b += line)
        for (size_t x = 0; x < n; x++) {
            const uint32_t u = a[x], v = b[x];
            sa += u, sb += v, saa += u * u, sbb += v * v, sab += u * v;
        }
    const double m = (double)(h * n), va = saa - (double)sa * sa / m, vb = sbb - (double)sb * sb / m;
    return va > 0 && vb > 0 ? (float)((sab - (double)sa * sb / m) / sqrt(va * vb)) : 0;
}

float kd__thumbs_alike(const kd__prints *p, size_t a, size_t b, bool mirrored, int shift)
{
    uint8_t turned[THUMB * THUMB * 4];
    const size_t size = p->h * p->w * p->c;
    const uint8_t *x = p->thumb + a * size, *y = p->thumb + b * size;
    float best = -1;
    if (mirrored) {
        for (size_t i = 0; i < p->h * p->w; i++)
            memcpy(turned + i * p->c, y + (i / p->w * p->w + (p->w - 1 - i % p->w)) * p->c, p->c);
        y = turned;
    }
    for (int dy = -shift; dy <= shift; dy++)
        for (int dx = -shift; dx <= shift; dx++) best = fmaxf(best, correlation(p, x, y, dy, dx));
    return best;
}

/* ---- vectors ------------------------------------------------------------------------------ */

/* mean, scale: (values) over all rows; a number that never changes has scale 0. */
static kd_status moments(reader *r, double *mean, double *scale, kd_err *err)
{
    const size_t n = r->f.values;
    const double rows = (double)kd_store_rows(r->s);
    kd_status st = KD_OK;
    for (int pass = 0; pass < 2 && !st; pass++) { // about the mean: no cancellation
        for (uint32_t k = 0; k < kd_store_chunks(r->s) && !st; k++) {
            st = read_chunk(r, k, err);
            for (size_t i = 0, m = kd_store_chunk(r->s, k)->rows * n; i < m && !st; i++) {
                const double d = (double)r->x[i] - mean[i % n];
                if (pass)
                    scale[i % n] += d * d / rows;
                else
                    scale[i % n] += (double)r->x[i] / rows;
            }
        }
        for (size_t i = 0; i < n; i++) {
            if (!pass) mean[i] = scale[i], scale[i] = 0;
            if (pass) scale[i] = scale[i] > 0 ? 1 / sqrt(scale[i]) : 0;
        }
    }
    return st;
}

static void vector_signature(float *out, size_t dims, const float *x, size_t n, const double *mean,
                             const double *scale, const float *random)
{
    double sum[MOST_DIMS] = {0};
    for (size_t i = 0; i < n; i++) {
        const double z = ((double)x[i] - mean[i]) * scale[i];
        if (!random)
            sum[i] = z;
        else
            for (size_t d = 0; d < dims; d++) sum[d] += z * (double)random[i * dims + d];
    }
    for (size_t d = 0; d < dims; d++) out[d] = (float)sum[d];
    to_unit(out, dims);
}

static kd_status vectors(kd__prints *p, reader *r, int threads, kd_err *err)
{
    const size_t n = r->f.values;
    double *mean = calloc(2 * n, sizeof(*mean));
    float *random = NULL;
    p->dims = kd_min_size(n, MOST_DIMS);
    p->plain = kd_alloc_aligned(p->rows, p->dims * sizeof(float));
    bool ok = mean && p->plain && (n <= MOST_DIMS || (random = malloc(n * MOST_DIMS * sizeof(*random))));
    kd_status st = ok ? moments(r, mean, mean + n, err)
                      : kd_fail(err, KD_ENOMEM, "no memory for the signatures of %zu rows", p->rows);
    kd_rng g;
    kd_rng_init(&g, 0, KD_RNG_SAMPLE, 0, 0);
    for (size_t i = 0; random && i < n * MOST_DIMS; i++) random[i] = kd_rng_normal(&g);
    for (uint32_t k = 0; k < kd_store_chunks(r->s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(r->s, k);
        st = read_chunk(r, k, err);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && !st)
        for (uint32_t i = 0; i < (st ? 0 : info->rows); i++)
            vector_signature(p->plain + (info->first + i) * p->dims, p->dims, r->x + i * n, n, mean, mean + n,
                             random);
    }
    free(mean);
    free(random);
    return st;
}

kd_status kd__prints_make(kd__prints *p, kd_store *s, int column, int threads, kd_err *err)
{
    reader r = {.s = s, .column = column, .f = shape_of(kd_store_column(s, (size_t)column))};
    const uint32_t most = kd__audit_most_rows(s);
    kd_status st = kd_cursor_open(&r.cursor, s, err);
    *p = (kd__prints){.rows = kd_store_rows(s)};
    if (!st && !(r.x = kd_alloc_aligned(most, r.f.values * sizeof(float))))
        st = kd_fail(err, KD_ENOMEM, "no memory for a chunk of %u rows", most);
    if (!st) st = r.f.image ? images(p, &r, threads, err) : vectors(p, &r, threads, err);
    kd_cursor_close(r.cursor);
    free(r.x);
    if (st) kd__prints_release(p);
    return st;
}
