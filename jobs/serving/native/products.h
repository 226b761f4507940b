// Products of rows with matrices whose weights have 32, 16 or 8 bits. Weights of 16 bits are widened in registers, and summed in the same
// order as those of 32: where a matrix has the same values in both, its products have the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(32)));
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HAS_512_BITS
typedef float Wide __attribute__((vector_size(64)));
typedef float LooseWide __attribute__((vector_size(64), aligned(4)));
#else
typedef Floats Wide;
#endif
typedef int32_t Integers __attribute__((vector_size(32)));
typedef uint32_t Naturals __attribute__((vector_size(32)));
typedef uint16_t LooseHalves __attribute__((vector_size(16), aligned(2)));
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4)));
static const int LINE = 64;                       // bytes that are fetched at once
static const int WIDTH = 8, STEP = 16;           // numbers in a vector; inputs of a matrix are a multiple of STEP
static const int WIDE = sizeof(Wide) / sizeof(float);  // inputs of products that are taken at once, at most STEP
static const int GROUP = 4;                       // outputs, or keys, computed at once; a matrix has at least as many
static const int64_t PART = 1024;                 // products of int16 and int8 whose sum fits in 32 bits, and is the same in any order
#if defined(__znver1__) || defined(__znver2__) || defined(__znver3__) || defined(__znver4__) || defined(__znver5__)
static const bool IS_FETCHED_NEAR = false;        // AMD's fetch from memory into the nearest cache half as fast as into the next
static const int64_t AHEAD = 3;                   // groups whose weights are fetched in advance: processors foresee long rows only
#ifdef HAS_512_BITS
#define READS_IN_ORDER                            // a few rows with weights of 32 bits: measured on these processors alone
#endif
#else
static const bool IS_FETCHED_NEAR = true;
static const int64_t AHEAD = 2;
#endif
static const int64_t FETCHING_TILES = 4;          // tiles of rows that share this fetching, so that it runs beside their arithmetic
static const int64_t WIDENED_ROWS = 24;           // from which on a group of weights in bfloat16 or int8 is widened once for all rows
#ifdef HAS_512_BITS
static const bool IS_BFLOAT_WIDENED_ONCE = false; // widening 16 at once costs less than reading them in 32 bits
#else
static const bool IS_BFLOAT_WIDENED_ONCE = true;
#endif
static const int64_t SIDE_ROWS = 5, SIDE_OUTPUTS = 2 * WIDE;  // rows and outputs computed at once with pairs of weights side by side
static const int64_t CACHED_ROWS = 64, CACHED_QUERIES = 48;
static const int64_t NEAR_BYTES = 40 << 10;       // of the nearest cache, which has 32 to 64 KiB
static const int64_t FEW_ROWS = 12, FEW_GROUPS = 4;  // rows and groups of outputs whose weights are read in order
static const int64_t FEW_BYTES = 28 << 10;        // of those rows that stay in the nearest cache
static const int64_t AHEAD_BYTES = 2304;          // weights are fetched four times as far ahead then
static const float LEVELS = 16383;                // the largest activation in int16

struct Bfloat { uint16_t bits; };                 // the upper half of a float32
struct Half { uint16_t bits; };                   // IEEE 754 binary16

enum Format : int64_t { FLOAT32, BFLOAT16, FLOAT16, INT8 };
struct Matrix { const void *weight; const float *scale, *bias; int64_t outputs, inputs, format; };

// Whether products can read a matrix: of a format that this processor's instructions load, in whole steps and groups.
static inline bool is_readable(const Matrix &m) {
    if (!m.weight || m.inputs <= 0 || m.inputs % STEP || m.outputs < GROUP) return false;
#ifdef __F16C__
    if (m.format == FLOAT16) return true;
#endif
    return m.format == FLOAT32 || m.format == BFLOAT16 || (m.format == INT8 && m.scale);
}

// Allocates whole lines: vectors that cross them are read at half the speed.
template <class T>
struct Lines {
    typedef T value_type;
    Lines() = default;
    template <class U> Lines(const Lines<U> &) {}
    T *allocate(size_t count) {
        if (count > SIZE_MAX / sizeof(T)) throw std::bad_alloc();
        return (T *)::operator new(count * sizeof(T), std::align_val_t(LINE));
    }
    void deallocate(T *at, size_t) { ::operator delete(at, std::align_val_t(LINE)); }
    template <class U> bool operator==(const Lines<U> &) const { return true; }
    template <class U> bool operator!=(const Lines<U> &) const { return false; }
};
template <class T> using Buffer = std::vector<T, Lines<T>>;

// No exception may leave a parallel region: a thread that has no memory notes it, and the region's end throws.
struct Shortage {
    bool is_noted = false;
    void note() {
#pragma omp atomic write
        is_noted = true;
    }
    void raise() const { if (is_noted) throw std::bad_alloc(); }

    template <class T>
    bool resized(Buffer<T> &buffer, int64_t size) {
        try {
            buffer.resize(size);
            return true;
        } catch (...) {
            note();
            return false;
        }
    }
};

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

#ifdef HAS_512_BITS
static inline Wide load_wide(const float *at) { return *(const LooseWide *)at; }
static inline Wide load_wide(const Bfloat *at) {
    return (Wide)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16);
}
static inline Wide load_wide(const Half *at) { return (Wide)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }
static inline Wide add_product(Wide a, Wide b, Wide sum) { return (Wide)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum); }
static inline Floats lower(Wide v) { return (Floats)_mm512_castps512_ps256((__m512)v); }
static inline Floats upper(Wide v) { return (Floats)_mm512_extractf64x4_pd((__m512d)v, 1); }
#else
template <class W>
static inline Wide load_wide(const W *at) { return load(at); }
#endif

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

#ifdef HAS_512_BITS
static inline Four totals(const Wide v[GROUP]) {
    Floats halves[GROUP];
    for (int c = 0; c < GROUP; c++) halves[c] = lower(v[c]) + upper(v[c]);
    return totals(halves);
}

// Return the sums of the lanes that FIRST and SECOND choose of two vectors.
template <int FIRST, int SECOND>
static inline __m512 added(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, FIRST), _mm512_shuffle_f32x4(a, b, SECOND));
}
static inline __m512 added_neighbours(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
static inline __m512 quarters(Wide a, Wide b, Wide c, Wide d) {
    return added<0x88, 0xdd>(added<0x44, 0xee>((__m512)a, (__m512)b), added<0x44, 0xee>((__m512)c, (__m512)d));
}
#endif

// The totals of rows; those of four are added side by side, in the same order.
template <int ROWS>
static inline void totals_of(const Wide v[][GROUP], Four sums[]) {
#ifdef HAS_512_BITS
    if constexpr (ROWS >= 4) {
        __m512 parts[GROUP];
#pragma GCC unroll 4
        for (int c = 0; c < GROUP; c++) parts[c] = quarters(v[0][c], v[1][c], v[2][c], v[3][c]);
        const __m512 all = added_neighbours(added_neighbours(parts[0], parts[1]), added_neighbours(parts[2], parts[3]));
        sums[0] = (Four)_mm512_extractf32x4_ps(all, 0), sums[1] = (Four)_mm512_extractf32x4_ps(all, 1);
        sums[2] = (Four)_mm512_extractf32x4_ps(all, 2), sums[3] = (Four)_mm512_extractf32x4_ps(all, 3);
        if constexpr (ROWS > 4) totals_of<ROWS - 4>(v + 4, sums + 4);
        return;
    }
#endif
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) sums[r] = totals(v[r]);
}

#ifdef __AVX2__
static inline Four totals(const __m256i v[GROUP]) {
    const __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    return (Four)_mm_cvtepi32_ps(_mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
#endif

// Vectors of integers: activations in int16, weights in int8 that are widened to int16, and sums of products of neighbours.
#ifdef HAS_512_BITS
typedef __m512i Lanes;
static inline Lanes no_sums() { return _mm512_setzero_si512(); }
static inline Lanes repeated(int32_t pair) { return _mm512_set1_epi32(pair); }
static inline Lanes load_lanes(const int16_t *at) { return _mm512_loadu_si512(at); }
static inline Lanes load_lanes(const int8_t *at) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)at)); }
static inline Lanes add_pairs(Lanes a, Lanes b, Lanes sums) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sums, a, b);
#else
    return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b));
#endif
}
static inline Four totals(const Lanes v[GROUP]) {
    __m256i halves[GROUP];
    for (int c = 0; c < GROUP; c++) halves[c] = _mm256_add_epi32(_mm512_castsi512_si256(v[c]), _mm512_extracti64x4_epi64(v[c], 1));
    return totals(halves);
}
// The last STEP inputs of an odd number of them; the lanes behind are 0.
static inline Lanes load_last(const int16_t *at) { return _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)at)); }
static inline Lanes load_last(const int8_t *at) {
    return _mm512_zextsi256_si512(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)at)));
}
#elif defined(__AVX2__)
typedef __m256i Lanes;
static inline Lanes no_sums() { return _mm256_setzero_si256(); }
static inline Lanes repeated(int32_t pair) { return _mm256_set1_epi32(pair); }
static inline Lanes load_lanes(const int16_t *at) { return _mm256_loadu_si256((const __m256i *)at); }
static inline Lanes load_lanes(const int8_t *at) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)at)); }
static inline Lanes add_pairs(Lanes a, Lanes b, Lanes sums) { return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)); }
template <class T>
static inline Lanes load_last(const T *at) { return load_lanes(at); }
#endif

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

// Fetch a line in advance, into the nearest cache or the next.
template <bool IS_NEAR>
static inline void fetch(const char *at) { IS_NEAR ? __builtin_prefetch(at, 0, 3) : __builtin_prefetch(at, 0, 2); }

// Multiply ROWS rows, `stride` apart, by GROUP rows of weights, and fetch `pace` bytes per input from `ahead`, which is up to LINES lines
// in each step of the loop.
template <int ROWS, bool IS_NEAR, int LINES, class W>
static inline void block(const float *x, int64_t x_stride, const W *w, int64_t w_stride, int64_t inputs, const char *ahead, int64_t pace, Four sums[ROWS]) {
    Wide parts[ROWS][GROUP];  // unrolled from the start: otherwise compilers fill, keep and add them in memory
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < GROUP; c++) parts[r][c] = Wide{};
#pragma GCC unroll 2
    for (int64_t i = 0; i < inputs; i += WIDE) {
        Wide rows[ROWS];
        for (int line = 0; line < LINES; line++) fetch<IS_NEAR>(ahead + i * pace + line * LINE);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) rows[r] = load_wide(x + r * x_stride + i);
#pragma GCC unroll 4
        for (int c = 0; c < GROUP; c++) {
            const Wide weights = load_wide(w + c * w_stride + i);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) parts[r][c] = add_product(weights, rows[r], parts[r][c]);
        }
    }
    totals_of<ROWS>(parts, sums);
}

#ifdef READS_IN_ORDER
// Add the products of ROWS rows and one row of weights to their sums, GROUP apart. Beside arithmetic weights are fetched three times,
// `ahead` bytes apart: where many requests for memory are under way, processors drop some.
template <int ROWS, bool IS_FETCHING>
static inline void add_in_order(const float *x, int64_t x_stride, const float *w, int64_t inputs, int64_t ahead, Wide *sums) {
    Wide parts[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) parts[r] = sums[r * GROUP];
#pragma GCC unroll 1
    for (int64_t i = 0; i < inputs; i += WIDE) {
        const char *at = (const char *)(w + i);
        if (IS_FETCHING) fetch<true>(at + 4 * ahead);
        if (IS_FETCHING && ROWS > 1) fetch<true>(at + 5 * ahead), fetch<true>(at + 3 * ahead);
        const Wide weights = load_wide(w + i);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) parts[r] = add_product(weights, load_wide(x + r * x_stride + i), parts[r]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) sums[r * GROUP] = parts[r];
}
#endif

template <int ROWS, bool IS_NEAR, int LINES>
static inline void block(const int16_t *x, int64_t x_stride, const int8_t *w, int64_t w_stride, int64_t inputs, const char *ahead, int64_t pace, Four sums[ROWS]) {
    for (int r = 0; r < ROWS; r++) sums[r] = Four{};
    for (int64_t begin = 0; begin < inputs; begin += PART) {
        const int64_t end = std::min(begin + PART, inputs);
#ifdef __AVX2__  // compilers widen one byte at a time
        Lanes parts[ROWS][GROUP];
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < GROUP; c++) parts[r][c] = no_sums();
        const auto add = [&](int64_t i, auto load) {
            Lanes rows[ROWS];
            for (int r = 0; r < ROWS; r++) rows[r] = load(x + r * x_stride + i);
            for (int c = 0; c < GROUP; c++) {
                const Lanes weights = load(w + c * w_stride + i);
                for (int r = 0; r < ROWS; r++) parts[r][c] = add_pairs(weights, rows[r], parts[r][c]);
            }
        };
        int64_t i = begin;
#pragma GCC unroll 2
        for (; i + 2 * WIDE <= end; i += 2 * WIDE) {
            for (int line = 0; line < LINES; line++) fetch<IS_NEAR>(ahead + i * pace + line * LINE);
            add(i, [](auto at) { return load_lanes(at); });
        }
        if (i < end) add(i, [](auto at) { return load_last(at); });
        for (int r = 0; r < ROWS; r++) sums[r] += totals(parts[r]);
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

#ifdef __AVX2__
// Widen weights of 8 outputs to int16 and put them side by side, pair by pair of inputs: [inputs / 2, 8 outputs, 2], `stride` apart.
static inline void widen_pairs(const int8_t *w, int64_t inputs, int16_t *pairs, int64_t stride) {
    for (int64_t i = 0; i < inputs; i += STEP, pairs += STEP / 2 * stride) {
        __m256i v[8], t[8];
        for (int c = 0; c < 8; c++) v[c] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + c * inputs + i)));
        for (int c = 0; c < 8; c += 2) t[c] = _mm256_unpacklo_epi32(v[c], v[c + 1]), t[c + 1] = _mm256_unpackhi_epi32(v[c], v[c + 1]);
        for (int c = 0; c < 8; c += 4)
            for (int h = 0; h < 2; h++) {
                v[c + 2 * h] = _mm256_unpacklo_epi64(t[c + h], t[c + 2 + h]);
                v[c + 2 * h + 1] = _mm256_unpackhi_epi64(t[c + h], t[c + 2 + h]);
            }
        for (int c = 0; c < 4; c++) {
            _mm256_storeu_si256((__m256i *)(pairs + c * stride), _mm256_permute2x128_si256(v[c], v[c + 4], 0x20));
            _mm256_storeu_si256((__m256i *)(pairs + (c + 4) * stride), _mm256_permute2x128_si256(v[c], v[c + 4], 0x31));
        }
    }
}

static inline void add_pair(const int16_t *x, Lanes low_weights, Lanes high_weights, Lanes &low, Lanes &high) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    const Lanes both = repeated(pair);
    low = add_pairs(low_weights, both, low);
    asm volatile("" : "+v"(low));  // in this order: with all products first, sums would be moved to memory and back
    high = add_pairs(high_weights, both, high);
    asm volatile("" : "+v"(high));
}

typedef Floats SideSums[SIDE_OUTPUTS / WIDTH];
static inline void add_converted(SideSums &sums, Lanes low, Lanes high) {
#ifdef HAS_512_BITS
    const Wide first = (Wide)_mm512_cvtepi32_ps(low), second = (Wide)_mm512_cvtepi32_ps(high);
    sums[0] += lower(first), sums[1] += upper(first), sums[2] += lower(second), sums[3] += upper(second);
#else
    sums[0] += (Floats)_mm256_cvtepi32_ps(low), sums[1] += (Floats)_mm256_cvtepi32_ps(high);
#endif
}

// Multiply SIDE_ROWS rows by SIDE_OUTPUTS outputs; no sum runs across a vector. In arrays, compilers would keep the sums in memory.
__attribute__((noinline)) static void block_of_pairs(const int16_t *x, const int16_t *pairs, int64_t inputs, const char *ahead, int64_t pace, SideSums sums[SIDE_ROWS]) {
    for (int r = 0; r < SIDE_ROWS; r++)
        for (Floats &sum : sums[r]) sum = Floats{};
    for (int64_t i = 0; i < inputs;) {
        const Lanes zero = no_sums();
        Lanes low0 = zero, low1 = zero, low2 = zero, low3 = zero, low4 = zero, high0 = zero, high1 = zero, high2 = zero, high3 = zero, high4 = zero;
        for (const int64_t end = std::min(i + PART, inputs); i < end; i += 2) {
            const Lanes low = load_lanes(pairs + i * SIDE_OUTPUTS), high = load_lanes(pairs + (i + 1) * SIDE_OUTPUTS);
            __builtin_prefetch(ahead + i * pace);
            add_pair(x + i, low, high, low0, high0);
            add_pair(x + inputs + i, low, high, low1, high1);
            add_pair(x + 2 * inputs + i, low, high, low2, high2);
            add_pair(x + 3 * inputs + i, low, high, low3, high3);
            add_pair(x + 4 * inputs + i, low, high, low4, high4);
        }
        add_converted(sums[0], low0, high0), add_converted(sums[1], low1, high1), add_converted(sums[2], low2, high2);
        add_converted(sums[3], low3, high3), add_converted(sums[4], low4, high4);
    }
}
#endif

// A sum of products of integers as a number; one expression, so that it is rounded in the same way everywhere.
template <class V>
static inline V scaled(V sum, V scale, float unit, V bias) { return sum * (scale * unit) + bias; }

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
#ifdef HAS_512_BITS  // 32 registers in place of 16
    static constexpr int TILE_ROWS = sizeof(W) == sizeof(float) ? 4 : 5;  // 5 are what registers hold sums for; 4 are added fastest
#else
    static constexpr int TILE_ROWS = IS_INT8 ? 2 : 3;
#endif

    template <int ROWS, class V>
    void compute(int64_t row, int64_t col, const V *weights, const char *ahead, int64_t pace) const {
        const Matrix &m = matrix;
        Four sums[ROWS];
        const X *first = x + row * m.inputs;
        const auto multiply = [&](auto is_near, auto lines) {
            block<ROWS, is_near, lines>(first, m.inputs, weights, m.inputs, m.inputs, ahead, pace, sums);
        };
        const auto fetch_lines = [&](auto lines) {
            is_fetched_near() ? multiply(std::true_type(), lines) : multiply(std::false_type(), lines);
        };
        const int64_t lines = pace * WIDE * (IS_INT8 ? 2 : 1) / LINE;  // of each step
        if (lines > 2) fetch_lines(std::integral_constant<int, 4>());
        else if (lines > 1) fetch_lines(std::integral_constant<int, 2>());
        else fetch_lines(std::integral_constant<int, 1>());
        finish<ROWS>(row, col, sums);
    }

    template <int ROWS>
    void finish(int64_t row, int64_t col, const Four sums[ROWS]) const {
        const Matrix &m = matrix;
        const Four bias = m.bias ? *(const LooseFour *)(m.bias + col) : Four{};
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = (row + r) * m.outputs + col;
            Four value = sums[r];
            value = IS_INT8 ? scaled<Four>(value, *(const LooseFour *)(m.scale + col), units[row + r], bias) : value + bias;
            if (plus) value += *(const LooseFour *)(plus + at);
            *(LooseFour *)(y + at) = value;
        }
    }

    // Products of int8, and of several tiles of rows with 16 bits, wait for arithmetic more than for memory.
    bool is_fetched_near() const { return IS_FETCHED_NEAR || IS_INT8 || (sizeof(W) < sizeof(float) && rows > TILE_ROWS); }

    template <int ROWS, class V>
    void compute_tile(int64_t count, int64_t row, int64_t col, const V *weights, const char *ahead, int64_t pace) const {
        if constexpr (ROWS > 1)
            if (count < ROWS) return compute_tile<ROWS - 1>(count, row, col, weights, ahead, pace);
        compute<ROWS>(row, col, weights, ahead, pace);
    }

    // Compute groups of outputs for all rows, tile by tile: a tile of rows stays in the nearest cache for all groups.
    template <class V>
    void compute_tiles(int64_t col, int64_t groups, const V *weights, const char *ahead) const {
        const Matrix &m = matrix;
        const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, bytes = GROUP * sizeof(W);
        int64_t pace = bytes / std::min(tiles, FETCHING_TILES), tile = 0;
        if (rows == 1 && (IS_FETCHED_NEAR || sizeof(W) < sizeof(float)))  // little arithmetic to fetch beside
            for (int64_t at = 0; at < bytes * m.inputs; at += 64) is_fetched_near() ? fetch<true>(ahead + at) : fetch<false>(ahead + at);
        for (int64_t row = 0, count; row < rows; row += count, tile++) {
            const int64_t left = rows - row;
            if (tile == FETCHING_TILES) pace = 0, ahead = (const char *)weights;
            count = left <= TILE_ROWS ? left : left < 2 * TILE_ROWS ? (left + 1) / 2 : TILE_ROWS;
            for (int64_t group = 0; group < groups; group++, ahead += pace * m.inputs)
                compute_tile<TILE_ROWS>(count, row, col + group * GROUP, weights + group * GROUP * m.inputs, ahead, pace);
        }
    }

    const W *weights_of(int64_t col) const { return (const W *)matrix.weight + col * matrix.inputs; }
    const char *ahead_of(int64_t col, int64_t width) const {
        return (const char *)weights_of(std::min(col + std::max(AHEAD * GROUP, width), matrix.outputs - width));
    }

    // Groups that share a tile of rows: with many rows as many as fit in the nearest cache beside it. Outputs of two such parts are
    // computed twice where their number is no multiple, so that `plus` must not be the result then.
    int64_t groups_at_once() const {
        if (rows < WIDENED_ROWS || plus == y) return 1;
        const int64_t bytes = matrix.inputs * sizeof(X), room = NEAR_BYTES / bytes - TILE_ROWS;
        return std::max<int64_t>(1, std::min(room, matrix.outputs) / GROUP);
    }

#ifdef READS_IN_ORDER
    int64_t col_of(int64_t group) const { return std::min(group * GROUP, matrix.outputs - GROUP); }

    template <int ROWS, bool IS_FETCHING>
    void compute_in_order(int64_t count, int64_t row, int64_t first, int64_t groups) const {
        if constexpr (ROWS > 1)
            if (count < ROWS) return compute_in_order<ROWS - 1, IS_FETCHING>(count, row, first, groups);
        const int64_t inputs = matrix.inputs, parts = (ROWS * inputs * sizeof(float) + FEW_BYTES - 1) / FEW_BYTES;
        const int64_t part = (inputs / STEP + parts - 1) / parts * STEP, row_bytes = inputs * sizeof(float);
        const int64_t ahead = std::max<int64_t>(1, AHEAD_BYTES / (part * sizeof(float))) * row_bytes;
        Wide sums[FEW_GROUPS][ROWS][GROUP] = {};
        for (int64_t begin = 0; begin < inputs; begin += part)
            for (int64_t group = 0; group < groups; group++)
                for (int c = 0; c < GROUP; c++)
                    add_in_order<ROWS, IS_FETCHING>(x + row * inputs + begin, inputs, weights_of(col_of(first + group) + c) + begin,
                                                    std::min(part, inputs - begin), ahead, &sums[group][0][c]);
        for (int64_t group = 0; group < groups; group++) {
            Four results[ROWS];
            totals_of<ROWS>(sums[group], results);
            finish<ROWS>(row, col_of(first + group), results);
        }
    }

    // A few rows wait for memory, which is read fastest in the order in which it lies: one output after the other, and where rows are too
    // long for the nearest cache, a part of their inputs for several groups of outputs.
    void run_in_order(int threads) const {
        const int64_t groups = (matrix.outputs + GROUP - 1) / GROUP, parts = (groups + FEW_GROUPS - 1) / FEW_GROUPS;
        const int64_t tiles = (rows + FEW_ROWS - 1) / FEW_ROWS, count = (rows + tiles - 1) / tiles;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t first = part * FEW_GROUPS, number = std::min(FEW_GROUPS, groups - first);
            compute_in_order<FEW_ROWS, true>(count, 0, first, number);
            for (int64_t row = count; row < rows; row += count)
                compute_in_order<FEW_ROWS, false>(std::min(count, rows - row), row, first, number);
        }
    }
#endif

    void run(int threads) const {
#ifdef READS_IN_ORDER
        if constexpr (std::is_same<W, float>::value)
            if (rows < WIDENED_ROWS) return run_in_order(threads);
#endif
        const int64_t at_once = groups_at_once(), width = at_once * GROUP, parts = (matrix.outputs + width - 1) / width;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t col = std::min(width * part, matrix.outputs - width);
            compute_tiles(col, at_once, weights_of(col), ahead_of(col, width));
        }
    }

#ifdef __AVX2__
    void compute_pairs(int64_t row, int64_t col, const int16_t *pairs, const char *ahead, int64_t pace) const {
        const Matrix &m = matrix;
        SideSums sums[SIDE_ROWS];
        block_of_pairs(x + row * m.inputs, pairs, m.inputs, ahead, pace, sums);
        for (int64_t part = 0; part < SIDE_OUTPUTS / WIDTH; part++, col += WIDTH) {
            const Floats scale = load(m.scale + col), bias = m.bias ? load(m.bias + col) : Floats{};
            for (int r = 0; r < SIDE_ROWS; r++) {
                const int64_t at = (row + r) * m.outputs + col;
                const Floats value = scaled<Floats>(sums[r][part], scale, units[row + r], bias);
                store(y + at, plus ? value + load(plus + at) : value);
            }
        }
    }

    // Of rows and outputs that are no multiple, some are computed twice: `plus` must not be the result.
    void run_pairs(int threads) const {
        const int64_t inputs = matrix.inputs, last = matrix.outputs - SIDE_OUTPUTS, groups = (matrix.outputs + SIDE_OUTPUTS - 1) / SIDE_OUTPUTS;
        Shortage shortage;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Buffer<int16_t> pairs;
            const bool has_room = shortage.resized(pairs, SIDE_OUTPUTS * inputs);
#pragma omp for
            for (int64_t group = 0; group < groups; group++) {
                if (!has_room) continue;
                const int64_t col = std::min(SIDE_OUTPUTS * group, last);
                for (int64_t part = 0; part < SIDE_OUTPUTS / WIDTH; part++)
                    widen_pairs(weights_of(col + part * WIDTH), inputs, pairs.data() + part * STEP, 2 * SIDE_OUTPUTS);
                const char *ahead = (const char *)weights_of(std::min(col + SIDE_OUTPUTS, last));
                int64_t pace = SIDE_OUTPUTS / FETCHING_TILES;
                for (int64_t row = 0, tile = 0; row < rows; row += SIDE_ROWS, tile++, ahead += pace * inputs) {
                    if (tile == FETCHING_TILES) pace = 0, ahead = (const char *)pairs.data();
                    compute_pairs(std::min(row, rows - SIDE_ROWS), col, pairs.data(), ahead, pace);
                }
            }
        }
        shortage.raise();
    }
#endif

    void run_widened(int threads) const {
        const int64_t at_once = groups_at_once(), width = at_once * GROUP, parts = (matrix.outputs + width - 1) / width;
        Shortage shortage;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Buffer<float> widened;
            const bool has_room = shortage.resized(widened, width * matrix.inputs);
#pragma omp for
            for (int64_t part = 0; part < parts; part++) {
                if (!has_room) continue;
                const int64_t col = std::min(width * part, matrix.outputs - width);
                for (int64_t i = 0; i < width * matrix.inputs; i += WIDTH) store(widened.data() + i, load(weights_of(col) + i));
                compute_tiles(col, at_once, (const float *)widened.data(), ahead_of(col, width));
            }
        }
        shortage.raise();
    }
};

static void product(const float *x, int64_t rows, const Matrix &m, float *y, const float *plus, int threads) {
    if (m.format == FLOAT32) return Product<float, float>{x, nullptr, rows, m, y, plus}.run(threads);
    if (m.format == BFLOAT16) {
        const Product<float, Bfloat> widened{x, nullptr, rows, m, y, plus};
        return IS_BFLOAT_WIDENED_ONCE && rows >= WIDENED_ROWS ? widened.run_widened(threads) : widened.run(threads);
    }
#ifdef __F16C__
    if (m.format == FLOAT16) return Product<float, Half>{x, nullptr, rows, m, y, plus}.run(threads);
#endif
    Buffer<int16_t> rounded(rows * m.inputs);
    std::vector<float> units(rows);
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * m.inputs;
        float largest = 1e-30f;
        for (int64_t i = 0; i < m.inputs; i++) largest = std::fabs(row[i]) > largest ? std::fabs(row[i]) : largest;
        const float levels = LEVELS / largest;
        for (int64_t i = 0; i < m.inputs; i++) rounded[r * m.inputs + i] = (int16_t)std::nearbyint(row[i] * levels);
        units[r] = largest / LEVELS;
    }
    const Product<int16_t, int8_t> narrow{rounded.data(), units.data(), rows, m, y, plus};
#ifdef __AVX2__
    if (rows >= WIDENED_ROWS && m.outputs >= SIDE_OUTPUTS && y != plus) return narrow.run_pairs(threads);
#endif
    narrow.run(threads);
}

