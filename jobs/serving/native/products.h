// Products of rows with matrices whose weights have 32, 16 or 8 bits. Weights of 16 bits are widened in registers, and summed in the same
// order as those of 32: where a matrix has the same values in both, its products have the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(32)));
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(32)));
typedef uint32_t Naturals __attribute__((vector_size(32)));
typedef uint16_t LooseHalves __attribute__((vector_size(16), aligned(2)));
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4)));
static const int WIDTH = 8, STEP = 16;           // numbers in a vector; inputs of a matrix are a multiple of STEP
static const int GROUP = 4;                       // outputs, or keys, computed at once; a matrix has at least as many
static const int64_t PART = 4096;                 // products of int16 and int8 whose sum fits in 32 bits
static const int64_t AHEAD = 2;                   // groups whose weights are fetched in advance: processors foresee long rows only
static const int64_t FETCHING_TILES = 4;          // tiles of rows that share this fetching, so that it runs beside their arithmetic
static const int64_t WIDENED_ROWS = 24;           // from which on a group of weights in bfloat16 is widened once for all rows
static const int64_t CACHED_ROWS = 60, CACHED_QUERIES = 48;
static const float LEVELS = 16383;                // the largest activation in int16

struct Bfloat { uint16_t bits; };                 // the upper half of a float32
struct Half { uint16_t bits; };                   // IEEE 754 binary16

enum Format : int64_t { FLOAT32, BFLOAT16, FLOAT16, INT8 };
struct Matrix { const void *weight; const float *scale, *bias; int64_t outputs, inputs, format; };

static inline Floats load(const float *at) { return *(const LooseFloats *)at; }
static inline Floats load(const Bfloat *at) {
#ifdef __AVX2__  // compilers widen four numbers at a time
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16);
#else
    return (Floats)(__builtin_convertvector(*(const LooseHalves *)at, Naturals) << 16);
#endif
}
#ifdef __F16C__
static inline Floats load(const Half *at) { return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }
#endif

// Return sum + a x b, rounded once where the processor can. Written out: compilers choose so loop by loop, and rows in different loops must
// have the same bits.
static inline Floats add_product(Floats a, Floats b, Floats sum) {
#if defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__ARM_FEATURE_FMA)
    for (int i = 0; i < WIDTH; i++) sum[i] = __builtin_fmaf(a[i], b[i], sum[i]);
    return sum;
#else
    return sum + a * b;
#endif
}

static inline void store(float *at, Floats v) { *(LooseFloats *)at = v; }
static inline float total(Floats v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

static inline Four totals(const Floats v[GROUP]) {
#ifdef __AVX2__
    __m128 halves[GROUP];
    for (int c = 0; c < GROUP; c++) halves[c] = _mm_add_ps(_mm256_castps256_ps128((__m256)v[c]), _mm256_extractf128_ps((__m256)v[c], 1));
    return (Four)_mm_hadd_ps(_mm_hadd_ps(halves[0], halves[1]), _mm_hadd_ps(halves[2], halves[3]));
#else
    return Four{total(v[0]), total(v[1]), total(v[2]), total(v[3])};
#endif
}

// e to the power of x, to 1 unit in the last place (the polynomial of Cephes' expf).
static inline Floats exponential(Floats x) {
    const Floats least = Floats{} - 87.0f, most = Floats{} + 88.0f;
    x = x < least ? least : x > most ? most : x;
    const float rounder = 12582912.0f;  // adding it leaves no digits behind the point
    const Floats power = (x * 1.44269504f + rounder) - rounder;
    const Floats rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
    Floats series = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * rest * rest + rest + 1.0f;
    const Integers exponent = (__builtin_convertvector(power, Integers) + 127) << 23;
    return series * (Floats)exponent;
}

// Multiply ROWS rows, `stride` apart, by GROUP rows of weights, and fetch `pace` bytes per input from `ahead`.
template <int ROWS, class W>
static inline void block(const float *x, int64_t x_stride, const W *w, int64_t w_stride, int64_t inputs, const char *ahead, int64_t pace, Four sums[ROWS]) {
    Floats parts[ROWS][GROUP] = {};
#pragma GCC unroll 2
    for (int64_t i = 0; i < inputs; i += WIDTH) {
        Floats rows[ROWS];
        __builtin_prefetch(ahead + i * pace);
        for (int r = 0; r < ROWS; r++) rows[r] = load(x + r * x_stride + i);
        for (int c = 0; c < GROUP; c++) {
            const Floats weights = load(w + c * w_stride + i);
            for (int r = 0; r < ROWS; r++) parts[r][c] = add_product(weights, rows[r], parts[r][c]);
        }
    }
    for (int r = 0; r < ROWS; r++) sums[r] = totals(parts[r]);
}

template <int ROWS>
static inline void block(const int16_t *x, int64_t x_stride, const int8_t *w, int64_t w_stride, int64_t inputs, const char *ahead, int64_t pace, Four sums[ROWS]) {
    for (int r = 0; r < ROWS; r++) sums[r] = Four{};
    for (int64_t begin = 0; begin < inputs; begin += PART) {
        const int64_t end = std::min(begin + PART, inputs);
#ifdef __AVX2__  // compilers widen one byte at a time
        __m256i parts[ROWS][GROUP];
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < GROUP; c++) parts[r][c] = _mm256_setzero_si256();
#pragma GCC unroll 2
        for (int64_t i = begin; i < end; i += STEP) {
            __m256i rows[ROWS];
            __builtin_prefetch(ahead + i * pace);
            for (int r = 0; r < ROWS; r++) rows[r] = _mm256_loadu_si256((const __m256i *)(x + r * x_stride + i));
            for (int c = 0; c < GROUP; c++) {
                const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + c * w_stride + i)));
                for (int r = 0; r < ROWS; r++) parts[r][c] = _mm256_add_epi32(parts[r][c], _mm256_madd_epi16(weights, rows[r]));
            }
        }
        for (int r = 0; r < ROWS; r++) {
            Floats converted[GROUP];
            for (int c = 0; c < GROUP; c++) converted[c] = (Floats)_mm256_cvtepi32_ps(parts[r][c]);
            sums[r] += totals(converted);
        }
#else
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < GROUP; c++) {
                int32_t part = 0;
                for (int64_t i = begin; i < end; i++) part += (int32_t)w[c * w_stride + i] * x[r * x_stride + i];
                sums[r][c] += (float)part;
            }
#endif
    }
}

// What the products of a matrix with many rows have in common. X and W: the types of activations and weights.
template <class X, class W>
struct Product {
    const X *x;
    const float *units;  // [rows] of activations in int16
    int64_t rows;
    const Matrix &matrix;
    float *y;
    const float *plus;   // added to the result, or null
    static constexpr bool IS_INT8 = std::is_same<W, int8_t>::value;

    template <int ROWS, class V>
    void compute(int64_t row, int64_t col, const V *weights, const char *ahead, int64_t pace) const {
        const Matrix &m = matrix;
        Four sums[ROWS];
        block<ROWS>(x + row * m.inputs, m.inputs, weights, m.inputs, m.inputs, ahead, pace, sums);
        const Four bias = m.bias ? *(const LooseFour *)(m.bias + col) : Four{};
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = (row + r) * m.outputs + col;
            Four value = sums[r];
            if (IS_INT8) value *= *(const LooseFour *)(m.scale + col) * units[row + r];
            value += bias;
            if (plus) value += *(const LooseFour *)(plus + at);
            *(LooseFour *)(y + at) = value;
        }
    }

    // Compute a group of outputs for all rows in tiles of as many rows as registers hold sums for.
    template <class V>
    void compute_tiles(int64_t col, const V *weights, const char *ahead) const {
        const Matrix &m = matrix;
        const int64_t most = IS_INT8 ? 2 : 3, tiles = (rows + most - 1) / most, bytes = GROUP * sizeof(W);
        int64_t pace = bytes / std::min(tiles, FETCHING_TILES), tile = 0;
        if (pace == bytes)  // more than a line per step of the loop
            for (int64_t at = 0; at < bytes * m.inputs; at += 64) __builtin_prefetch(ahead + at);
        for (int64_t row = 0, count; row < rows; row += count, tile++, ahead += pace * m.inputs) {
            const int64_t left = rows - row;
            if (tile == FETCHING_TILES) pace = 0, ahead = (const char *)weights;
            count = left == 4 ? 2 : std::min(left, most);
            if (count == 3) compute<3>(row, col, weights, ahead, pace);
            else if (count == 2) compute<2>(row, col, weights, ahead, pace);
            else compute<1>(row, col, weights, ahead, pace);
        }
    }

    const W *weights_of(int64_t col) const { return (const W *)matrix.weight + col * matrix.inputs; }
    const char *ahead_of(int64_t col) const { return (const char *)weights_of(std::min(col + AHEAD * GROUP, matrix.outputs - GROUP)); }

    void run(int threads) const {
        const int64_t groups = (matrix.outputs + GROUP - 1) / GROUP;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t group = 0; group < groups; group++) {
            const int64_t col = std::min(GROUP * group, matrix.outputs - GROUP);
            compute_tiles(col, weights_of(col), ahead_of(col));
        }
    }

    void run_widened(int threads) const {
        const int64_t groups = (matrix.outputs + GROUP - 1) / GROUP;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            std::vector<float> widened(GROUP * matrix.inputs);
#pragma omp for
            for (int64_t group = 0; group < groups; group++) {
                const int64_t col = std::min(GROUP * group, matrix.outputs - GROUP);
                for (int64_t i = 0; i < GROUP * matrix.inputs; i += WIDTH) store(widened.data() + i, load(weights_of(col) + i));
                compute_tiles(col, (const float *)widened.data(), ahead_of(col));
            }
        }
    }
};

static void product(const float *x, int64_t rows, const Matrix &m, float *y, const float *plus, int threads) {
    if (m.format == FLOAT32) return Product<float, float>{x, nullptr, rows, m, y, plus}.run(threads);
    if (m.format == BFLOAT16) {
        const Product<float, Bfloat> widened{x, nullptr, rows, m, y, plus};
        return rows < WIDENED_ROWS ? widened.run(threads) : widened.run_widened(threads);
    }
#ifdef __F16C__
    if (m.format == FLOAT16) return Product<float, Half>{x, nullptr, rows, m, y, plus}.run(threads);
#endif
    std::vector<int16_t> rounded(rows * m.inputs);
    std::vector<float> units(rows);
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * m.inputs;
        float largest = 1e-30f;
        for (int64_t i = 0; i < m.inputs; i++) largest = std::fabs(row[i]) > largest ? std::fabs(row[i]) : largest;
        const float levels = LEVELS / largest;
        for (int64_t i = 0; i < m.inputs; i++) rounded[r * m.inputs + i] = (int16_t)std::nearbyint(row[i] * levels);
        units[r] = largest / LEVELS;
    }
    Product<int16_t, int8_t>{rounded.data(), units.data(), rows, m, y, plus}.run(threads);
}

