// Batch norm, addition of a shortcut and ReLU in training, as two passes over the activations instead of six.
// Statistics are over groups of `group` rows; the last group may be smaller.
//
// A tensor [n, c, h, w] in channels_last is a matrix here: n h w rows, one for each pixel, and c columns, one for each
// channel; c is a multiple of LANES. Activations are float32 or bfloat16, arithmetic is float32, sums over rows are
// float64. fused.py compiles this file for the machine's processor when a run starts, with GCC or Clang.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };  // columns in a vector: GCC splits a vector that is wider than the processor's into scalars
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { BLOCK = 64 };  // rows summed in float32
typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))  // so that the constant `bf16` costs nothing
#define FOR_BLOCKS                                       \
    for (size_t top = 0; top < rows; top += BLOCK)       \
        for (size_t col = 0; col < c; col += LANES)
#define FOR_ROWS for (size_t i = top * c + col, end = (top + BLOCK < rows ? top + BLOCK : rows) * c; i < end; i += c)

INLINE f32 load(const void *from, size_t i, int bf16) {
    if (bf16) {
        u16 halves;
        memcpy(&halves, (const uint16_t *)from + i, sizeof halves);
        return (f32)(__builtin_convertvector(halves, u32) << 16);
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

// Zero if `test` is zero or less, but not if `test` is NaN: activations of a diverging run must not turn into zeros.
INLINE f32 relu_of(f32 test, f32 values) { return (f32)((u32)values & ~(u32)(test <= 0)); }

INLINE void add_to(double *sums, f32 values) {
    for (int lane = 0; lane < LANES; lane++) sums[lane] += values[lane];
}

// y = relu(weight (x - mean) / sqrt(var + eps) + bias + h), where ReLU and h are optional. `saved` is 4 c floats: mean,
// biased variance, and the scale and shift that follow from these, weight and bias.
INLINE void forward(const void *x, const void *h, void *y, const float *weight, const float *bias, float *saved,
                    size_t rows, size_t c, float eps, int relu, int bf16) {
    float *mean = saved, *var = saved + c, *scale = saved + 2 * c, *shift = saved + 3 * c;
    double sum[c], sum_of_squares[c];
    memset(sum, 0, sizeof sum);
    memset(sum_of_squares, 0, sizeof sum_of_squares);
    for (size_t col = 0; col < c; col += LANES) store(mean, col, load(x, col, bf16), 0);
    FOR_BLOCKS {  // sum x less its first row, because the square of a large mean would swallow the variance
        f32 origin = load(mean, col, 0), s = {0}, s2 = {0};
        FOR_ROWS {
            f32 v = load(x, i, bf16) - origin;
            s += v;
            s2 += v * v;
        }
        add_to(sum + col, s);
        add_to(sum_of_squares + col, s2);
    }
    for (size_t k = 0; k < c; k++) {
        double m = sum[k] / rows, v = sum_of_squares[k] / rows - m * m;
        mean[k] = (float)(mean[k] + m);
        var[k] = v < 0 ? 0 : (float)v;  // not fmax, which would turn a NaN into 0
        scale[k] = weight[k] / sqrtf(var[k] + eps);
        shift[k] = bias[k] - mean[k] * scale[k];
    }
    FOR_BLOCKS {
        f32 a = load(scale, col, 0), b = load(shift, col, 0);
        FOR_ROWS {
            f32 v = load(x, i, bf16) * a + b;
            if (h) v += load(h, i, bf16);
            if (relu) v = relu_of(v, v);
            store(y, i, v, bf16);
        }
    }
}

// Compute dx, and dh unless null, from dy; add to dweight and dbias. ReLU's mask is the sign of y or, if y is null
// (there was no h), the sign of the sum before ReLU.
INLINE void backward(const void *dy, const void *y, const void *x, const float *saved, void *dx, void *dh,
                     float *dweight, float *dbias, size_t rows, size_t c, float eps, int relu, int bf16) {
    const float *mean = saved, *var = saved + c, *scale = saved + 2 * c, *shift = saved + 3 * c;
    double sum[c], sum_of_products[c];
    memset(sum, 0, sizeof sum);
    memset(sum_of_products, 0, sizeof sum_of_products);
    FOR_BLOCKS {
        f32 m = load(mean, col, 0), a = load(scale, col, 0), b = load(shift, col, 0), s = {0}, s2 = {0};
        FOR_ROWS {
            f32 g = load(dy, i, bf16), v = load(x, i, bf16);
            if (relu) g = relu_of(y ? load(y, i, bf16) : v * a + b, g);
            if (dh) store(dh, i, g, bf16);
            s += g;
            s2 += g * (v - m);
        }
        add_to(sum + col, s);
        add_to(sum_of_products + col, s2);
    }
    float slope[c], offset[c];  // dx = scale (g - mean of g - x^ mean of g x^) = scale g + slope x + offset
    for (size_t k = 0; k < c; k++) {
        double variance = (double)var[k] + eps;
        dbias[k] += (float)sum[k];
        dweight[k] += (float)(sum_of_products[k] / sqrt(variance));
        double along_x = -scale[k] * sum_of_products[k] / variance / rows;
        slope[k] = (float)along_x;
        offset[k] = (float)(-scale[k] * sum[k] / rows - along_x * mean[k]);
    }
    FOR_BLOCKS {
        f32 a = load(scale, col, 0), b = load(shift, col, 0), p = load(slope, col, 0), q = load(offset, col, 0);
        FOR_ROWS {
            f32 g = load(dh ? dh : dy, i, bf16), v = load(x, i, bf16);
            if (relu && !dh) g = relu_of(y ? load(y, i, bf16) : v * a + b, g);
            store(dx, i, a * g + p * v + q, bf16);
        }
    }
}

// The address of a row, or null if there is no tensor.
INLINE void *at(const void *tensor, size_t row, size_t c, int bf16) {
    return tensor ? (char *)tensor + row * c * (bf16 ? sizeof(uint16_t) : sizeof(float)) : NULL;
}

#define FOR_GROUPS                                                                                  \
    for (size_t top = 0, num = rows < group ? rows : group; top < rows;                              \
         top += num, saved += 4 * c, num = rows - top < group ? rows - top : group)

void norm_forward(const void *x, const void *h, void *y, const float *weight, const float *bias, float *saved,
                  size_t rows, size_t group, size_t c, float eps, int relu, int bf16) {
    FOR_GROUPS {
        const void *x_ = at(x, top, c, bf16), *h_ = at(h, top, c, bf16);
        if (bf16)
            forward(x_, h_, at(y, top, c, 1), weight, bias, saved, num, c, eps, relu, 1);
        else
            forward(x_, h_, at(y, top, c, 0), weight, bias, saved, num, c, eps, relu, 0);
    }
}

void norm_backward(const void *dy, const void *y, const void *x, const float *saved, void *dx, void *dh,
                   float *dweight, float *dbias, size_t rows, size_t group, size_t c, float eps, int relu, int bf16) {
    memset(dweight, 0, c * sizeof *dweight);
    memset(dbias, 0, c * sizeof *dbias);
    FOR_GROUPS {
        const void *dy_ = at(dy, top, c, bf16), *y_ = at(y, top, c, bf16), *x_ = at(x, top, c, bf16);
        void *dx_ = at(dx, top, c, bf16), *dh_ = at(dh, top, c, bf16);
        if (bf16)
            backward(dy_, y_, x_, saved, dx_, dh_, dweight, dbias, num, c, eps, relu, 1);
        else
            backward(dy_, y_, x_, saved, dx_, dh_, dweight, dbias, num, c, eps, relu, 0);
    }
}
