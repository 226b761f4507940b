// One decoder layer for a few rows, each the newest token of its request: the arithmetic of FusedLayer without an operator per line.
// Weights are float32 with activations in float32, or int8 with one scale per output and activations in int16 with one scale per row.
// A row's result does not depend on the other rows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(32)));
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));
static const int WIDTH = 8, STEP = 16;           // numbers in a vector; inputs of a matrix are a multiple of STEP
static const int64_t PART = 4096;                 // products of int16 and int8 whose sum fits in 32 bits
static const int64_t AHEAD = 8;                   // outputs whose weights are fetched in advance: processors foresee long rows only
static const int64_t CACHED_ROWS = 64;
static const float LEVELS = 16383;                // the largest activation in int16

struct Matrix { const void *weight; const float *scale, *bias; int64_t outputs, inputs; };

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *input_norm, *after_norm, *head_norm;  // head_norm: [rotated heads, channels] or null
    float norm_eps, head_eps, attention_scale;
    int64_t num_heads, num_kv_heads, channels, page_tokens;
};

struct Batch {
    int64_t rows;
    const float *rotation;         // [rows, channels / 2] pairs of cosine and sine
    const int64_t *write;          // [rows] slots of the new keys and values
    const int64_t *pages;          // the rows' pages, one row's behind the other's
    const int64_t *first_page;     // [rows + 1]
    const int64_t *num_keys;       // [rows], the new one included
    float *keys, *values;          // this layer's views of the cache, [slots, kv heads, channels]
};

static inline Floats load(const float *at) { return *(const LooseFloats *)at; }
static inline float total(Floats v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

// Multiply ROWS rows by the weights of COLS outputs.
template <int ROWS, int COLS>
static inline void block(const float *x, const float *w, int64_t inputs, float sums[ROWS][COLS]) {
    Floats parts[ROWS][COLS] = {};
    for (int64_t i = 0; i < inputs; i += WIDTH)
        for (int c = 0; c < COLS; c++) {
            Floats weights = load(w + c * inputs + i);
            for (int r = 0; r < ROWS; r++) parts[r][c] += weights * load(x + r * inputs + i);
        }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) sums[r][c] = total(parts[r][c]);
}

template <int ROWS, int COLS>
static inline void block(const int16_t *x, const int8_t *w, int64_t inputs, float sums[ROWS][COLS]) {
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) sums[r][c] = 0;
    for (int64_t begin = 0; begin < inputs; begin += PART) {
        const int64_t end = begin + PART < inputs ? begin + PART : inputs;
#ifdef __AVX2__  // compilers widen one byte at a time
        __m256i parts[ROWS][COLS];
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++) parts[r][c] = _mm256_setzero_si256();
        for (int64_t i = begin; i < end; i += STEP)
            for (int c = 0; c < COLS; c++) {
                __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + c * inputs + i)));
                for (int r = 0; r < ROWS; r++) {
                    __m256i activations = _mm256_loadu_si256((const __m256i *)(x + r * inputs + i));
                    parts[r][c] = _mm256_add_epi32(parts[r][c], _mm256_madd_epi16(weights, activations));
                }
            }
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++) sums[r][c] += total((Floats)_mm256_cvtepi32_ps(parts[r][c]));
#else
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++) {
                int32_t part = 0;
                for (int64_t i = begin; i < end; i++) part += (int32_t)w[c * inputs + i] * x[r * inputs + i];
                sums[r][c] += (float)part;
            }
#endif
    }
}

template <int ROWS, int COLS, class X, class W>
static inline void block_into(const X *x, const float *units, const Matrix &m, const W *w, int64_t row, int64_t col, float *y, const float *plus) {
    float sums[ROWS][COLS];
    block<ROWS, COLS>(x + row * m.inputs, w + col * m.inputs, m.inputs, sums);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) {
            const int64_t at = (row + r) * m.outputs + col + c;
            const float value = units ? sums[r][c] * (m.scale[col + c] * units[row + r]) : sums[r][c];
            y[at] = value + (m.bias ? m.bias[col + c] : 0.0f) + (plus ? plus[at] : 0.0f);
        }
}

template <class X, class W>
static void multiply(const X *x, const float *units, int64_t rows, const Matrix &m, const W *w, float *y, const float *plus, int threads) {
    const int64_t bytes = m.inputs * (int64_t)sizeof(W);
    const bool is_short = bytes <= 2048;
    const char *end = (const char *)(w + m.outputs * m.inputs);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t group = 0; group < (m.outputs + 3) / 4; group++) {
        int64_t col = 4 * group, row = 0;
        if (is_short) {
            const char *ahead = (const char *)(w + (col + AHEAD) * m.inputs);
            for (int64_t at = 0; at < 4 * bytes && ahead + at < end; at += 64) __builtin_prefetch(ahead + at);
        }
        if (col + 4 > m.outputs) {
            for (; col < m.outputs; col++)
                for (row = 0; row < rows; row++) block_into<1, 1>(x, units, m, w, row, col, y, plus);
            continue;
        }
        for (; row + 4 <= rows; row += 4) {
            block_into<4, 2>(x, units, m, w, row, col, y, plus);
            block_into<4, 2>(x, units, m, w, row, col + 2, y, plus);
        }
        for (; row < rows; row++) block_into<1, 4>(x, units, m, w, row, col, y, plus);
    }
}

static void product(const float *x, int64_t rows, const Matrix &m, float *y, const float *plus, int threads) {
    if (!m.scale) return multiply(x, nullptr, rows, m, (const float *)m.weight, y, plus, threads);
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
    multiply(rounded.data(), units.data(), rows, m, (const int8_t *)m.weight, y, plus, threads);
}

static void rms_norm(const float *x, const float *weight, float eps, int64_t width, float *y) {
    Floats squares = {};
    for (int64_t i = 0; i < width; i += WIDTH) squares += load(x + i) * load(x + i);
    float scale = 1.0f / std::sqrt(total(squares) / width + eps);
    for (int64_t i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void rotate(float *head, const float *rotation, int64_t channels) {
    for (int64_t i = 0; i < channels; i += 2) {
        float real = head[i], imaginary = head[i + 1], cosine = rotation[i], sine = rotation[i + 1];
        head[i] = real * cosine - imaginary * sine;
        head[i + 1] = real * sine + imaginary * cosine;
    }
}

// Attend from the query heads of one row that share a key head to all its keys.
static void attend(const Layer &l, const Batch &b, int64_t row, int64_t kv_head, const float *queries, float *out, std::vector<float> &scores) {
    const int64_t shared = l.num_heads / l.num_kv_heads, channels = l.channels, stride = l.num_kv_heads * channels, count = b.num_keys[row];
    const int64_t *pages = b.pages + b.first_page[row];
    scores.resize(shared * count);
    for (int64_t j = 0; j < count; j++) {
        const float *key = b.keys + (pages[j / l.page_tokens] * l.page_tokens + j % l.page_tokens) * stride + kv_head * channels;
        for (int64_t s = 0; s < shared; s++) {
            Floats sum = {};
            for (int64_t i = 0; i < channels; i += WIDTH) sum += load(key + i) * load(queries + s * channels + i);
            scores[s * count + j] = total(sum) * l.attention_scale;
        }
    }
    for (int64_t s = 0; s < shared; s++) {
        float *score = scores.data() + s * count, largest = score[0], sum = 0;
        for (int64_t j = 1; j < count; j++) largest = score[j] > largest ? score[j] : largest;
        for (int64_t j = 0; j < count; j++) score[j] = expf(score[j] - largest);
        Floats sums = {};
        int64_t rest = 0;
        for (; rest + WIDTH <= count; rest += WIDTH) sums += load(score + rest);
        for (; rest < count; rest++) sum += score[rest];
        sum += total(sums);
        for (int64_t j = 0; j < count; j++) score[j] /= sum;
    }
    memset(out, 0, shared * channels * sizeof(float));
    for (int64_t j = 0; j < count; j++) {
        const float *value = b.values + (pages[j / l.page_tokens] * l.page_tokens + j % l.page_tokens) * stride + kv_head * channels;
        for (int64_t s = 0; s < shared; s++) {
            float share = scores[s * count + j];
            for (int64_t i = 0; i < channels; i++) out[s * channels + i] += share * value[i];
        }
    }
}

// Multiply any number of rows, as many at a time as stay in the cache.
extern "C" void multiply_rows(const float *x, int64_t rows, const Matrix *matrix, float *y, int threads) {
    for (int64_t row = 0; row < rows; row += CACHED_ROWS)
        product(x + row * matrix->inputs, std::min(CACHED_ROWS, rows - row), *matrix, y + row * matrix->outputs, nullptr, threads);
}

extern "C" void decode_layer(const Layer *layer, const Batch *batch, const float *hidden, float *result, int threads) {
    const Layer &l = *layer;
    const Batch &b = *batch;
    const int64_t rows = b.rows, width = l.qkv.inputs, rotated = l.num_heads + l.num_kv_heads, channels = l.channels;
    const int64_t attended_width = l.num_heads * channels, inner = l.down.inputs;
    std::vector<float> normed(rows * width), mixed(rows * l.qkv.outputs), attended(rows * attended_width), middle(rows * width);
    std::vector<float> gate_up(rows * 2 * inner), active(rows * inner);
    for (int64_t r = 0; r < rows; r++) rms_norm(hidden + r * width, l.input_norm, l.norm_eps, width, normed.data() + r * width);
    product(normed.data(), rows, l.qkv, mixed.data(), nullptr, threads);
    for (int64_t r = 0; r < rows; r++) {
        float *row = mixed.data() + r * l.qkv.outputs;
        for (int64_t h = 0; h < rotated; h++) {
            if (l.head_norm) rms_norm(row + h * channels, l.head_norm + h * channels, l.head_eps, channels, row + h * channels);
            rotate(row + h * channels, b.rotation + r * channels, channels);
        }
        const int64_t bytes = l.num_kv_heads * channels * sizeof(float), slot = b.write[r] * l.num_kv_heads * channels;
        memcpy(b.keys + slot, row + l.num_heads * channels, bytes);
        memcpy(b.values + slot, row + rotated * channels, bytes);
    }
    const int64_t shared = l.num_heads / l.num_kv_heads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<float> scores;
#pragma omp for
        for (int64_t part = 0; part < rows * l.num_kv_heads; part++) {
            int64_t r = part / l.num_kv_heads, h = part % l.num_kv_heads, at = h * shared * channels;
            attend(l, b, r, h, mixed.data() + r * l.qkv.outputs + at, attended.data() + r * attended_width + at, scores);
        }
    }
    product(attended.data(), rows, l.out, middle.data(), hidden, threads);
    for (int64_t r = 0; r < rows; r++) rms_norm(middle.data() + r * width, l.after_norm, l.norm_eps, width, normed.data() + r * width);
    product(normed.data(), rows, l.gate_up, gate_up.data(), nullptr, threads);
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = gate_up.data() + r * 2 * inner, *up = gate + inner;
        float *y = active.data() + r * inner;
        for (int64_t i = 0; i < inner; i++) y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
    product(active.data(), rows, l.down, result, middle.data(), threads);
}
