// What a training step on a CPU does around oneDNN's convolutions: batch norm with the addition of a shortcut and ReLU,
// and the weights' gradient of 3x3 convolutions.
//
// A tensor [n, c, h, w] in channels_last is a matrix here: n h w rows, one for each pixel, and c columns, one for each
// channel; c is a multiple of 16. Activations are float32 or bfloat16, arithmetic is float32, sums over rows are
// float64. fused.py compiles this file for the machine's processor when a run starts, with GCC or Clang.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };  // columns in a vector: GCC splits a vector that is wider than the processor's into scalars
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))  // so that constants as arguments cost nothing
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

INLINE f32 load(const void *from, size_t i, int bf16) {
    if (bf16) {
#ifdef __AVX512F__  // one instruction, which GCC 12 does not find by itself
        __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)((const uint16_t *)from + i)));
        return (f32)_mm512_slli_epi32(halves, 16);
#else
        u16 halves;
        memcpy(&halves, (const uint16_t *)from + i, sizeof halves);
        return (f32)(__builtin_convertvector(halves, u32) << 16);
#endif
    }
    f32 values;
    memcpy(&values, (const float *)from + i, sizeof values);
    return values;
}

INLINE void store(void *to, size_t i, f32 values, int bf16) {
    if (bf16) {
#ifdef __AVX512BF16__
        u16 halves = (u16)_mm512_cvtneps_pbh((__m512)values);
#else
        u32 bits = (u32)values;  // to nearest, ties to even; the NaN that arithmetic makes stays one
        u16 halves = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, u16);
#endif
        memcpy((uint16_t *)to + i, &halves, sizeof halves);
    } else {
        memcpy((float *)to + i, &values, sizeof values);
    }
}

// --- threads ---------------------------------------------------------------------------------------------------------

#ifdef __linux__  // PyTorch's own OpenMP, so that its threads are used: a process that trains has loaded it
void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
int omp_get_thread_num(void) __attribute__((weak));
int omp_get_num_threads(void) __attribute__((weak));
#define HAS_THREADS (GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
#else
#define GOMP_parallel(...)
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#define HAS_THREADS 0
#endif

struct tasks {
    void (*run)(const void *job, size_t i);
    const void *job;
    size_t num;
};

static void run_share(void *all) {
    const struct tasks *tasks = all;
    for (size_t i = omp_get_thread_num(); i < tasks->num; i += omp_get_num_threads()) tasks->run(tasks->job, i);
}

static void run_tasks(void (*run)(const void *job, size_t i), const void *job, size_t num, int num_threads) {
    struct tasks tasks = {run, job, num};
    if (num_threads > 1 && num > 1 && HAS_THREADS)
        GOMP_parallel(run_share, &tasks, num_threads, 0);
    else
        for (size_t i = 0; i < num; i++) run(job, i);
}

// --- batch norm ------------------------------------------------------------------------------------------------------

struct norm {  // the layer, for one group of rows that is normalised by itself
    const void *x, *h, *dy;
    void *y, *dx, *dh;                  // y: an output forward, an input backward
    float *mean, *var, *scale, *shift;  // of c channels each; scale and shift follow from mean, var, weight and bias
    float *slope, *offset;              // dx = scale dy + slope x + offset
    double *sums;                       // [tasks][2][c]
    size_t rows, c, rows_a_task;
    int relu, bf16;
};

enum { BLOCK = 64 };  // rows summed in float32

// The blocks of a task's rows, the strips of V vectors in a block, and the rows of a strip. A block of narrow rows is
// one strip. Wide rows are read one by one, as memory lies: where tensors do not fit in a cache, strips of several rows
// take up to twice as long.
#define FOR_BLOCKS \
    for (size_t block = task * n.rows_a_task, end = MIN(block + n.rows_a_task, n.rows); block < end; block += BLOCK)
#define FOR_STRIPS(V)                                                                                     \
    for (size_t row = block, num = c == (size_t)V * LANES ? BLOCK : 1; row < MIN(block + BLOCK, end);     \
         row += num)                                                                                      \
        for (size_t col = 0; col < c; col += V * LANES)
#define FOR_ROWS for (size_t i = row * c + col, stop = MIN(row + num, end) * c; i < stop; i += c)
#define FOR_VECTORS(V) _Pragma("GCC unroll 4") for (int k = 0; k < V; k++)

// Zero if `test` is zero or less, but not if `test` is NaN: activations of a diverging run must not turn into zeros.
INLINE f32 relu_of(f32 test, f32 values) { return (f32)((u32)values & ~(u32)(test <= 0)); }

INLINE void add_to(double *sums, const float *values, size_t num) {
    for (size_t i = 0; i < num; i += LANES) {
        f32 v = load(values, i, 0);
        for (int lane = 0; lane < LANES; lane++) sums[i + lane] += v[lane];
    }
}

// Sums of x and of its squares. Both are of x less its first row, because the square of a large mean would swallow the
// variance.
INLINE void sum_forward(struct norm n, size_t task, int bf16, int V) {
    size_t c = n.c;
    float sums[2 * c];
    FOR_BLOCKS {
        memset(sums, 0, sizeof sums);
        FOR_STRIPS(V) {
            f32 origin[4], s[4], s2[4];
            FOR_VECTORS(V) origin[k] = load(n.mean, col + k * LANES, 0);
            FOR_VECTORS(V) s[k] = load(sums, col + k * LANES, 0), s2[k] = load(sums, c + col + k * LANES, 0);
            FOR_ROWS FOR_VECTORS(V) {
                f32 v = load(n.x, i + k * LANES, bf16) - origin[k];
                s[k] += v;
                s2[k] += v * v;
            }
            FOR_VECTORS(V) store(sums, col + k * LANES, s[k], 0), store(sums, c + col + k * LANES, s2[k], 0);
        }
        add_to(n.sums + task * 2 * c, sums, 2 * c);
    }
}

INLINE void apply_forward(struct norm n, size_t task, int bf16, int V) {
    size_t c = n.c;
    FOR_BLOCKS FOR_STRIPS(V) {
        f32 a[4], b[4];
        FOR_VECTORS(V) a[k] = load(n.scale, col + k * LANES, 0), b[k] = load(n.shift, col + k * LANES, 0);
        FOR_ROWS FOR_VECTORS(V) {
            f32 v = load(n.x, i + k * LANES, bf16) * a[k] + b[k];
            if (n.h) v += load(n.h, i + k * LANES, bf16);
            store(n.y, i + k * LANES, n.relu ? relu_of(v, v) : v, bf16);
        }
    }
}

// The gradient of what ReLU reads. Its mask is the sign of y or, if y is null (there was no h), of the normalised x.
INLINE f32 before_relu(struct norm n, size_t i, f32 x, f32 a, f32 b, int bf16) {
    f32 g = load(n.dy, i, bf16);
    return n.relu ? relu_of(n.y ? load(n.y, i, bf16) : x * a + b, g) : g;
}

// Sums of g and of g (x - mean), where g is the gradient of what ReLU reads; that gradient becomes dh, unless null.
INLINE void sum_backward(struct norm n, size_t task, int bf16, int V) {
    size_t c = n.c;
    float sums[2 * c];
    FOR_BLOCKS {
        memset(sums, 0, sizeof sums);
        FOR_STRIPS(V) {
            f32 m[4], a[4], b[4], s[4], s2[4];
            FOR_VECTORS(V) m[k] = load(n.mean, col + k * LANES, 0);
            FOR_VECTORS(V) a[k] = load(n.scale, col + k * LANES, 0), b[k] = load(n.shift, col + k * LANES, 0);
            FOR_VECTORS(V) s[k] = load(sums, col + k * LANES, 0), s2[k] = load(sums, c + col + k * LANES, 0);
            FOR_ROWS FOR_VECTORS(V) {
                f32 v = load(n.x, i + k * LANES, bf16), g = before_relu(n, i + k * LANES, v, a[k], b[k], bf16);
                if (n.dh) store(n.dh, i + k * LANES, g, bf16);
                s[k] += g;
                s2[k] += g * (v - m[k]);
            }
            FOR_VECTORS(V) store(sums, col + k * LANES, s[k], 0), store(sums, c + col + k * LANES, s2[k], 0);
        }
        add_to(n.sums + task * 2 * c, sums, 2 * c);
    }
}

INLINE void apply_backward(struct norm n, size_t task, int bf16, int V) {
    size_t c = n.c;
    FOR_BLOCKS FOR_STRIPS(V) {
        f32 a[4], b[4], p[4], q[4];
        FOR_VECTORS(V) a[k] = load(n.scale, col + k * LANES, 0), b[k] = load(n.shift, col + k * LANES, 0);
        FOR_VECTORS(V) p[k] = load(n.slope, col + k * LANES, 0), q[k] = load(n.offset, col + k * LANES, 0);
        FOR_ROWS FOR_VECTORS(V) {
            f32 v = load(n.x, i + k * LANES, bf16);
            f32 g = n.dh ? load(n.dh, i + k * LANES, bf16) : before_relu(n, i + k * LANES, v, a[k], b[k], bf16);
            store(n.dx, i + k * LANES, a[k] * g + p[k] * v + q[k], bf16);
        }
    }
}

#define SPECIALISED(pass)                                                \
    static void pass##_task(const void *job, size_t task) {              \
        struct norm n = *(const struct norm *)job;                       \
        int num_vectors = n.c / LANES % 4 ? n.c / LANES % 2 ? 1 : 2 : 4; \
        if (n.bf16 && num_vectors == 4) pass(n, task, 1, 4);             \
        else if (n.bf16 && num_vectors == 2) pass(n, task, 1, 2);        \
        else if (n.bf16) pass(n, task, 1, 1);                            \
        else if (num_vectors == 4) pass(n, task, 0, 4);                  \
        else pass(n, task, 0, 1);                                        \
    }
SPECIALISED(sum_forward)
SPECIALISED(apply_forward)
SPECIALISED(sum_backward)
SPECIALISED(apply_backward)

// Run `pass` over all rows, and leave the sums of all tasks in those of the first.
static void run_pass(void (*pass)(const void *, size_t), const struct norm *n, int num_threads) {
    size_t num = (n->rows + n->rows_a_task - 1) / n->rows_a_task;
    memset(n->sums, 0, num * 2 * n->c * sizeof *n->sums);
    run_tasks(pass, n, num, num_threads);
    for (size_t task = 1; task < num; task++)
        for (size_t k = 0; k < 2 * n->c; k++) n->sums[k] += n->sums[task * 2 * n->c + k];
}

// The layer's group of rows that begins at `top`. A group's record in `saved` is 4 c floats: mean, biased variance, and
// the scale and shift that follow from these, weight and bias.
static struct norm group_at(size_t top, size_t rows, size_t group, size_t c, float *saved, int relu, int bf16) {
    float *record = saved + top / group * 4 * c;
    size_t rows_a_task = MAX(2 * BLOCK, 65536 / c / BLOCK * BLOCK);
    return (struct norm){
        .mean = record, .var = record + c, .scale = record + 2 * c, .shift = record + 3 * c,
        .rows = MIN(group, rows - top), .c = c, .rows_a_task = rows_a_task, .relu = relu, .bf16 = bf16,
        .sums = malloc((rows / rows_a_task + 1) * 2 * c * sizeof(double)),
    };
}

// The address of a row, or null if there is no tensor.
INLINE void *at(const void *tensor, size_t row, size_t c, int bf16) {
    return tensor ? (char *)tensor + row * c * (bf16 ? sizeof(uint16_t) : sizeof(float)) : NULL;
}

// y = relu(weight (x - mean) / sqrt(var + eps) + bias + h), where ReLU and h are optional; statistics are over groups
// of `group` rows, of which the last may be smaller.
void norm_forward(const void *x, const void *h, void *y, const float *weight, const float *bias, float *saved,
                  size_t rows, size_t group, size_t c, float eps, int relu, int bf16, int num_threads) {
    for (size_t top = 0; top < rows; top += group) {
        struct norm n = group_at(top, rows, group, c, saved, relu, bf16);
        n.x = at(x, top, c, bf16), n.h = at(h, top, c, bf16), n.y = at(y, top, c, bf16);
        for (size_t col = 0; col < c; col += LANES) store(n.mean, col, load(n.x, col, bf16), 0);
        run_pass(sum_forward_task, &n, num_threads);
        for (size_t k = 0; k < c; k++) {
            double m = n.sums[k] / n.rows, v = n.sums[c + k] / n.rows - m * m;
            n.mean[k] = (float)(n.mean[k] + m);
            n.var[k] = v < 0 ? 0 : (float)v;  // not fmax, which would turn a NaN into 0
            n.scale[k] = weight[k] / sqrtf(n.var[k] + eps);
            n.shift[k] = bias[k] - n.mean[k] * n.scale[k];
        }
        run_pass(apply_forward_task, &n, num_threads);
        free(n.sums);
    }
}

// dx and, unless null, dh from dy; y is null if there was no h.
void norm_backward(const void *dy, const void *y, const void *x, const float *saved, void *dx, void *dh,
                   float *dweight, float *dbias, size_t rows, size_t group, size_t c, float eps, int relu, int bf16,
                   int num_threads) {
    memset(dweight, 0, c * sizeof *dweight);
    memset(dbias, 0, c * sizeof *dbias);
    float slope[c], offset[c];  // dx = scale (g - mean of g - x^ mean of g x^) = scale g + slope x + offset
    for (size_t top = 0; top < rows; top += group) {
        struct norm n = group_at(top, rows, group, c, (float *)saved, relu, bf16);
        n.dy = at(dy, top, c, bf16), n.y = at(y, top, c, bf16), n.x = at(x, top, c, bf16);
        n.dx = at(dx, top, c, bf16), n.dh = at(dh, top, c, bf16), n.slope = slope, n.offset = offset;
        run_pass(sum_backward_task, &n, num_threads);
        for (size_t k = 0; k < c; k++) {
            double variance = (double)n.var[k] + eps;
            dbias[k] += (float)n.sums[k];
            dweight[k] += (float)(n.sums[c + k] / sqrt(variance));
            double along_x = -n.scale[k] * n.sums[c + k] / variance / n.rows;
            slope[k] = (float)along_x;
            offset[k] = (float)(-n.scale[k] * n.sums[k] / n.rows - along_x * n.mean[k]);
        }
        run_pass(apply_backward_task, &n, num_threads);
        free(n.sums);
    }
}

// --- weights' gradient -----------------------------------------------------------------------------------------------

// dw[co][kh][kw][ci] = sum over images and pixels of dy[r][p][co] x[r stride + kh - 1][p stride + kw - 1][ci].
//
// The format is the one in which the processor trains: bf16 if it has instructions for bf16, float32 if its widest vectors
// are AVX2's, 16 registers of 8 floats. x and dy are first packed in the order in which the loops read them, as many
// images at once as stay in a core's caches. bf16 instructions sum over pairs, here of neighbouring pixels, which are
// packed together.
// oneDNN reaches 60 to 80 % of a Zen 4's bf16 rate and 45 to 70 % of a Zen 3's float32 rate, the loops for vectors 80 to
// 100 % and 70 to 95 %. With AMX, the loops for tiles take 40 to 70 % of oneDNN's time for the papers' CIFAR networks.
#if defined(__AVX512BF16__)
#define HAS_WEIGHTS_GRADIENT
enum { PIXELS = 2, IN = 16, OUT = 8, MOST_PACKED = 256 << 10 };
typedef uint16_t number;
typedef __m512i vector;   // IN channels of PIXELS neighbouring pixels
typedef uint32_t scalar;  // a channel of PIXELS neighbouring pixels

// Rows of 16 channels of two pixels; zeros for null.
INLINE vector join(const number *first, const number *second) {
    __m256i low = first ? _mm256_loadu_si256((const void *)first) : _mm256_setzero_si256();
    __m256i high = second ? _mm256_loadu_si256((const void *)second) : _mm256_setzero_si256();
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

INLINE f32 multiply_add(vector x, scalar dy, f32 sums) {
    return (f32)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)_mm512_set1_epi32(dy));
}
#elif defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
#define HAS_WEIGHTS_GRADIENT
enum { PIXELS = 1, IN = LANES, OUT = 4, MOST_PACKED = 4 << 20 };
typedef float number, scalar;
typedef f32 vector;

INLINE vector join(const number *only, const number *second) {
    (void)second;
    return only ? load(only, 0, 0) : (vector){0};
}

INLINE f32 multiply_add(vector x, scalar dy, f32 sums) { return x * dy + sums; }
#endif

#ifdef HAS_WEIGHTS_GRADIENT
struct convolution {
    const number *x, *dy;
    float *dw;  // [threads][co][3][3][ci]: each thread has images of its own
    size_t n, h, w, out_h, out_w, ci, co, stride;
    size_t num_threads;
    size_t at_once;           // images that are packed
    vector *packed_x;         // a pixel, in bf16 also the pixel `stride` to the right: [ci / IN][image, row][w + 2]
                              // for vectors, [ci / 16][row % stride][x_length] for tiles
    scalar *packed_dy;        // [co / OUT][image, row][places][OUT] for vectors, [co / 16][16][length / 2] for tiles
    size_t x_bytes, dy_bytes; // of these two
    size_t places;            // for vectors: in a row of dy, each of PIXELS pixels
    size_t pitch, rows;       // for tiles: of an image of dy with one column and one row more, of zeros
    size_t length, x_length;  // for tiles: pixels in a row of `packed_dy` and of `packed_x`
    uint32_t *pixels;         // for tiles: [length], the pixel of dy at each place, or NO_PIXEL for zeros
};

#ifdef __AMX_BF16__
// Tiles of 16 rows of 64 bytes. Pixels are in one long row here, one image after the other, with a column of zeros
// after each of its rows and a row of zeros after its last: so each of the 9 weights has x at one distance from dy,
// and 32 places in a row are the pixels of a multiplication, whatever the image's width. With stride 2, even and odd
// rows of x are apart.
#define NO_PIXEL UINT32_MAX

// Rows become columns.
INLINE void transpose(__m512i v[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {  // v[i + j] has, in its quarter k, column 4 k + j of rows i to i + 3
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512i even[2], odd[2];
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            even[k] = _mm512_shuffle_i32x4(v[8 * k + j], v[8 * k + 4 + j], 0x88);
            odd[k] = _mm512_shuffle_i32x4(v[8 * k + j], v[8 * k + 4 + j], 0xdd);
        }
        t[j] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
        t[12 + j] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
    }
    memcpy(v, t, sizeof t);
}

// Packed x at the first pixel of a row of an image, which may be the row above it.
INLINE __m512i *x_row(const struct convolution *c, size_t in_block, size_t image, ptrdiff_t row) {
    ptrdiff_t stride = c->stride, parity = row & (stride - 1), margin = stride * c->pitch + stride;
    return c->packed_x + (in_block * stride + parity) * c->x_length + margin +
           ((ptrdiff_t)(image * c->rows) + (row - parity) / stride) * stride * (ptrdiff_t)c->pitch;
}

static void pack(struct convolution c) {
    for (size_t image = 0; image < c.n; image++)
        for (size_t row = 0; row < c.h; row++)
            for (size_t block = 0; block < c.ci / 16; block++) {
                const uint16_t *from = c.x + (image * c.h + row) * c.w * c.ci + block * 16;
                __m512i *to = x_row(&c, block, image, row);
                for (size_t i = 0; i < MIN(c.stride, c.w); i++) to[i - c.stride] = join(NULL, from + i * c.ci);
                for (size_t i = 0; i < c.w; i++)
                    to[i] = join(from + i * c.ci, i + c.stride < c.w ? from + (i + c.stride) * c.ci : NULL);
            }
    size_t num_pixels = c.n * c.out_h * c.out_w;  // the last images of a batch may be fewer than `at_once`
    for (size_t block = 0; block < c.co / 16; block++)
        for (size_t i = 0; i < c.length; i += 32) {
            const uint16_t *from = c.dy + block * 16;
            __m512i v[16];
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++) {
                size_t a = c.pixels[i + 2 * k], b = c.pixels[i + 2 * k + 1];
                v[k] = join(a < num_pixels ? from + a * c.co : NULL, b < num_pixels ? from + b * c.co : NULL);
            }
            transpose(v);
#pragma GCC unroll 16
            for (int k = 0; k < 16; k++)
                _mm512_store_si512(c.packed_dy + ((block * 16 + k) * c.length + i) / 2, v[k]);
        }
}

// 4 or 5 of the 9 weights, 16 output and 16 input channels; there are 8 tiles, and a tile's name is a literal.
#define FOR_WEIGHTS(what) what(0, 5) what(1, 6) what(2, 5) what(3, 6) if (num == 5) { what(4, 5) }
#define LOAD_SUMS(k, tile) _tile_loadd(k, dw + k * c.ci, 36 * c.ci);
#define STORE_SUMS(k, tile) _tile_stored(k, dw + k * c.ci, 36 * c.ci);
#define ADD_PRODUCT(k, tile) \
    _tile_loadd(tile, x[k] + i * c.stride, 128 * c.stride); \
    _tile_dpbf16ps(k, 7, tile);
INLINE void add_product(struct convolution c, const __m512i *const *x, const uint32_t *dy, float *dw, int num) {
    FOR_WEIGHTS(LOAD_SUMS)
    for (size_t i = 0; i < c.length; i += 32) {
        _tile_loadd(7, dy + i / 2, 2 * c.length);
        FOR_WEIGHTS(ADD_PRODUCT)
    }
    FOR_WEIGHTS(STORE_SUMS)
}

static void add_products(struct convolution c) {
    struct {
        uint8_t palette, zeros[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1}, before;
    for (int i = 0; i < 8; i++) tiles.bytes[i] = 64, tiles.rows[i] = 16;
    _tile_storeconfig(&before);  // oneDNN relies on what it has set
    _tile_loadconfig(&tiles);
    for (size_t in_block = 0; in_block < c.ci / 16; in_block++) {
        const __m512i *x[9];
        for (int k = 0; k < 9; k++) x[k] = x_row(&c, in_block, 0, k / 3 - 1) + k % 3 - 1;
        for (size_t out_block = 0; out_block < c.co / 16; out_block++) {
            const uint32_t *dy = c.packed_dy + out_block * 8 * c.length;
            float *dw = c.dw + out_block * 16 * 9 * c.ci + in_block * 16;
            add_product(c, x, dy, dw, 5);
            add_product(c, x + 5, dy, dw + 5 * c.ci, 4);
        }
    }
    _tile_loadconfig(&before);
}

static void make_room(struct convolution *c) {
    c->pitch = c->out_w + 1, c->rows = c->out_h + 1;
    size_t image = c->rows * c->pitch, image_bytes = image * (4 * c->stride * c->stride * c->ci + 2 * c->co);
    size_t sums_bytes = 36 * c->ci * c->co;  // read and written for so many images at once
    c->at_once = MIN(c->n, MAX(1, MAX(256 << 10, MIN(1 << 20, sums_bytes)) / image_bytes));
    c->length = ((c->at_once * image + 31) / 32 | 1) * 32;  // odd, so that rows differ in their place in the cache
    c->x_length = c->stride * (c->length + 2 * c->pitch + 2);
    c->x_bytes = c->ci / 16 * c->stride * c->x_length * sizeof *c->packed_x;
    c->dy_bytes = c->length * c->co * 2;
    c->pixels = malloc(c->length * sizeof *c->pixels);
    for (size_t i = 0; i < c->length; i++) c->pixels[i] = NO_PIXEL;
    for (size_t row = 0, pixel = 0; row < c->at_once * c->out_h; row++)
        for (size_t i = 0; i < c->out_w; i++)
            c->pixels[(row + row / c->out_h) * c->pitch + i] = pixel++;
}

#else
static void pack(struct convolution c) {
    for (size_t row = 0; row < c.n * c.h; row++)
        for (size_t block = 0; block < c.ci / IN; block++)
            for (size_t i = 0; i < c.w + 2; i++) {
                const number *from = c.x + row * c.w * c.ci + block * IN;
                size_t a = i - 1, b = a + c.stride;  // a pixel before the first is a large number
                c.packed_x[(block * c.n * c.h + row) * (c.w + 2) + i] =
                    join(a < c.w ? from + a * c.ci : NULL, b < c.w ? from + b * c.ci : NULL);
            }
    for (size_t row = 0; row < c.n * c.out_h; row++)
        for (size_t i = 0; i < c.places; i++)
            for (size_t block = 0; block < c.co / IN; block++) {
                const number *from = c.dy + (row * c.out_w + PIXELS * i) * c.co + block * IN;
                vector both = join(from, PIXELS * i + 1 < c.out_w ? from + c.co : NULL);
                for (size_t half = 0; half < IN / OUT; half++)
                    memcpy(c.packed_dy + (((2 * block + half) * c.n * c.out_h + row) * c.places + i) * OUT,
                           (scalar *)&both + half * OUT, OUT * sizeof(scalar));
            }
}

// One row of 3 weights, OUT output and IN input channels: three quarters of the registers have sums.
#define FOR_SUMS \
    _Pragma("GCC unroll 3") for (int kw = 0; kw < 3; kw++) _Pragma("GCC unroll 8") for (int k = 0; k < OUT; k++)
INLINE void add_product(struct convolution c, size_t kh, size_t out_block, size_t in_block) {
    f32 sums[3][OUT];
    FOR_SUMS sums[kw][k] = (f32){0};
    for (size_t out_row = 0; out_row < c.n * c.out_h; out_row++) {
        size_t image = out_row / c.out_h, row = out_row % c.out_h * c.stride + kh - 1;
        if (row >= c.h) continue;  // the padding
        const vector *x = c.packed_x + ((in_block * c.n + image) * c.h + row) * (c.w + 2);
        const scalar *dy = c.packed_dy + (out_block * c.n * c.out_h + out_row) * c.places * OUT;
        for (size_t i = 0; i < c.places; i++, x += PIXELS * c.stride, dy += OUT) {
            vector v[3] = {x[0], x[1], x[2]};
            // one read of each: GCC would read x anew for each product
            for (int kw = 0; kw < 3; kw++) __asm__("" : "+v"(v[kw]));
#pragma GCC unroll 8
            for (int k = 0; k < OUT; k++)
#pragma GCC unroll 3
                for (int kw = 0; kw < 3; kw++) sums[kw][k] = multiply_add(v[kw], dy[k], sums[kw][k]);
        }
    }
    float *to = c.dw + (out_block * OUT * 9 + kh * 3) * c.ci + in_block * IN;
    FOR_SUMS {
        size_t at = (k * 9 + kw) * c.ci;
        store(to, at, load(to, at, 0) + sums[kw][k], 0);
    }
}

static void add_products(struct convolution c) {
    for (size_t in_block = 0; in_block < c.ci / IN; in_block++)
        for (size_t out_block = 0; out_block < c.co / OUT; out_block++)
            for (size_t kh = 0; kh < 3; kh++) add_product(c, kh, out_block, in_block);
}

static void make_room(struct convolution *c) {
    c->places = (c->out_w + PIXELS - 1) / PIXELS;
    size_t x_image = c->h * (c->w + 2) * c->ci * PIXELS * sizeof *c->x;
    size_t dy_image = c->out_h * c->places * c->co * sizeof *c->packed_dy;
    size_t sums_bytes = 36 * c->ci * c->co;  // read and written for so many images at once
    size_t room = MIN(MOST_PACKED, MAX(256 << 10, sums_bytes));
    c->at_once = MIN(c->n, MAX(1, room / (x_image + dy_image)));
    c->x_bytes = c->at_once * x_image, c->dy_bytes = c->at_once * dy_image;
}
#endif

static void add_images(const void *job, size_t thread) {
    struct convolution c = *(const struct convolution *)job;
    size_t image = c.n * thread / c.num_threads, end = c.n * (thread + 1) / c.num_threads;
    size_t x_image = c.h * c.w * c.ci, dy_image = c.out_h * c.out_w * c.co, num_weights = 9 * c.ci * c.co;
    c.x += image * x_image, c.dy += image * dy_image, c.dw += thread * num_weights;
    c.packed_x = aligned_alloc(64, c.x_bytes);
    c.packed_dy = aligned_alloc(64, c.dy_bytes);
    memset(c.packed_x, 0, c.x_bytes);  // the padding
    memset(c.dw, 0, num_weights * sizeof *c.dw);
    for (; image < end; image += c.n, c.x += c.n * x_image, c.dy += c.n * dy_image) {
        c.n = MIN(c.at_once, end - image);
        pack(c);
        add_products(c);
    }
    free(c.packed_x);
    free(c.packed_dy);
}

// dw has room for the sums of each thread; the first becomes the sum of all.
void weights_gradient(const number *x, const number *dy, float *dw, size_t n, size_t h, size_t w, size_t ci,
                      size_t co, size_t stride, int num_threads) {
    struct convolution c = {
        .x = x, .dy = dy, .dw = dw, .n = n, .h = h, .w = w, .out_h = (h + stride - 1) / stride,
        .out_w = (w + stride - 1) / stride, .ci = ci, .co = co, .stride = stride, .num_threads = num_threads,
    };
    make_room(&c);
    run_tasks(add_images, &c, num_threads, num_threads);
    free(c.pixels);
    for (size_t i = 9 * ci * co; i < num_threads * 9 * ci * co; i++) dw[i % (9 * ci * co)] += dw[i];
}
#endif

// The bytes of a number that `weights_gradient` reads, or 0 if this process may not call it: Linux gives AMX's tiles to
// a process that asks.
int weights_gradient_bytes(void) {
#ifdef __AMX_BF16__
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 0;
#endif
#ifdef HAS_WEIGHTS_GRADIENT
    return sizeof(number);
#else
    return 0;
#endif
}
