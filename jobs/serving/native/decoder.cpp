// One decoder layer for the rows of a batch, each a token of a request, a new one or one of a prompt: the arithmetic of FusedLayer without an
// operator per line. Weights are float32 with activations in float32, or int8 with one scale per output and activations in int16 with one
// scale per row. A row's result does not depend on the other rows: a token of a prompt and the same token generated have the same bits.
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
typedef int32_t Integers __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4)));
static const int WIDTH = 8, STEP = 16;           // numbers in a vector; inputs of a matrix are a multiple of STEP
static const int GROUP = 4;                       // outputs, or keys, computed at once; a matrix has at least as many
static const int64_t PART = 4096;                 // products of int16 and int8 whose sum fits in 32 bits
static const int64_t AHEAD = 2;                   // groups whose weights are fetched in advance: processors foresee long rows only
static const int64_t FETCHING_TILES = 4;          // tiles of rows that share this fetching, so that it runs beside their arithmetic
static const int64_t CACHED_ROWS = 60, CACHED_QUERIES = 48;
static const float LEVELS = 16383;                // the largest activation in int16

struct Matrix { const void *weight; const float *scale, *bias; int64_t outputs, inputs; };

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *input_norm, *after_norm, *head_norm;  // head_norm: [rotated heads, channels] or null
    float norm_eps, head_eps, attention_scale;
    int64_t num_heads, num_kv_heads, channels, page_tokens;
};

// One product's change by a LoRA adapter: up (down x), of [rank, inputs] and [outputs, rank], rank a multiple of STEP; 0 changes nothing.
struct Pair { const float *down, *up; int64_t rank; };

// Rows with one adapter, and its pairs for a layer's qkv, out, gate_up and down.
struct Change { int64_t begin, end; const Pair *pairs; };

struct Batch {
    int64_t rows, requests;
    const float *rotation;         // [rows, channels / 2] pairs of cosine and sine
    const int64_t *write;          // [rows] slots of the new keys and values
    const int64_t *first_row;      // [requests + 1]
    const int64_t *pages;          // the requests' pages, one request's behind the other's
    const int64_t *first_page;     // [requests + 1]
    const int64_t *num_keys;       // [requests], the new ones included
    float *keys, *values;          // this layer's views of the cache, [slots, kv heads, channels]
    const Change *changes;         // of this layer
    int64_t num_changes;
};

// Tokens of one request and one key head, whose queries attend together.
struct Tile { int64_t request, begin, end, kv_head; };

static inline Floats load(const float *at) { return *(const LooseFloats *)at; }
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
template <int ROWS>
static inline void block(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t inputs, const char *ahead, int64_t pace, Four sums[ROWS]) {
    Floats parts[ROWS][GROUP] = {};
#pragma GCC unroll 2
    for (int64_t i = 0; i < inputs; i += WIDTH) {
        Floats rows[ROWS];
        __builtin_prefetch(ahead + i * pace);
        for (int r = 0; r < ROWS; r++) rows[r] = load(x + r * x_stride + i);
        for (int c = 0; c < GROUP; c++) {
            const Floats weights = load(w + c * w_stride + i);
            for (int r = 0; r < ROWS; r++) parts[r][c] += weights * rows[r];
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

    template <int ROWS>
    void compute(int64_t row, int64_t col, const char *ahead, int64_t pace) const {
        const Matrix &m = matrix;
        Four sums[ROWS];
        block<ROWS>(x + row * m.inputs, m.inputs, (const W *)m.weight + col * m.inputs, m.inputs, m.inputs, ahead, pace, sums);
        const Four bias = m.bias ? *(const LooseFour *)(m.bias + col) : Four{};
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = (row + r) * m.outputs + col;
            Four value = sums[r];
            if (sizeof(W) == 1) value *= *(const LooseFour *)(m.scale + col) * units[row + r];
            value += bias;
            if (plus) value += *(const LooseFour *)(plus + at);
            *(LooseFour *)(y + at) = value;
        }
    }

    // Compute a group of outputs for all rows in tiles of as many rows as registers hold sums for.
    void compute_group(int64_t col) const {
        const Matrix &m = matrix;
        const int64_t most = sizeof(W) == 1 ? 2 : 3, tiles = (rows + most - 1) / most, bytes = GROUP * sizeof(W);
        int64_t pace = bytes / std::min(tiles, FETCHING_TILES), tile = 0;
        const char *here = (const char *)m.weight + col * m.inputs * sizeof(W);
        const char *ahead = (const char *)m.weight + std::min(col + AHEAD * GROUP, m.outputs - GROUP) * m.inputs * sizeof(W);
        if (pace == bytes)  // more than a line per step of the loop
            for (int64_t at = 0; at < bytes * m.inputs; at += 64) __builtin_prefetch(ahead + at);
        for (int64_t row = 0, count; row < rows; row += count, tile++, ahead += pace * m.inputs) {
            const int64_t left = rows - row;
            if (tile == FETCHING_TILES) pace = 0, ahead = here;
            count = left == 4 ? 2 : std::min(left, most);
            if (count == 3) compute<3>(row, col, ahead, pace);
            else if (count == 2) compute<2>(row, col, ahead, pace);
            else compute<1>(row, col, ahead, pace);
        }
    }

    void run(int threads) const {
        const int64_t groups = (matrix.outputs + GROUP - 1) / GROUP;
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (int64_t group = 0; group < groups; group++) compute_group(std::min(GROUP * group, matrix.outputs - GROUP));
    }
};

static void product(const float *x, int64_t rows, const Matrix &m, float *y, const float *plus, int threads) {
    if (!m.scale) return Product<float, float>{x, nullptr, rows, m, y, plus}.run(threads);
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

// Tokens of one request whose queries of one key head attend together, page by page.
class Attention {
    const Layer &l;
    const Batch &b;
    const int64_t shared = l.num_heads / l.num_kv_heads, stride = l.num_kv_heads * l.channels;
    std::vector<float> queries, scores;  // [queries, channels] and [queries, width]
    std::vector<float *> results;

    template <int QUERIES>
    void score(int64_t query, const float *keys, int64_t key, int64_t width) {
        Four sums[QUERIES];
        block<QUERIES>(queries.data() + query * l.channels, l.channels, keys, stride, l.channels, (const char *)keys, 0, sums);
        for (int q = 0; q < QUERIES; q++) *(LooseFour *)(scores.data() + (query + q) * width + key) = sums[q] * l.attention_scale;
    }

    void score_page(const float *keys, int64_t begin, int64_t end, int64_t width) {
        const int64_t count = results.size();
        for (int64_t key = begin; key < end; key += GROUP, keys += GROUP * stride) {
            int64_t query = 0;
            for (; query + 3 <= count; query += 3) score<3>(query, keys, key, width);
            if (count - query == 2) score<2>(query, keys, key, width);
            else if (count - query == 1) score<1>(query, keys, key, width);
        }
    }

    // Turn the first `count` scores of a query into shares that sum to 1, and the others into 0.
    static void share_out(float *row, int64_t count, int64_t width) {
        const Floats none = Floats{} - 1e30f;
        for (int64_t j = count; j < width; j++) row[j] = none[0];
        Floats most = none, sums = {};
        for (int64_t j = 0; j < count; j += WIDTH) most = load(row + j) > most ? load(row + j) : most;
        float largest = most[0];
        for (int i = 1; i < WIDTH; i++) largest = std::max(largest, most[i]);
        for (int64_t j = 0; j < count; j += WIDTH) {
            const Floats scores = load(row + j), shares = scores > none ? exponential(scores - largest) : Floats{};
            sums += shares;
            store(row + j, shares);
        }
        for (int64_t j = count; j < width; j++) row[j] = 0;
        const float scale = 1.0f / total(sums);
        for (int64_t j = 0; j < count; j += WIDTH) store(row + j, load(row + j) * scale);
    }

    template <int QUERIES>
    void add_values(int64_t query, const float *values, int64_t begin, int64_t end, int64_t width, int64_t channel) {
        const float *shares = scores.data() + query * width;
        float *const *out = results.data() + query;
        Floats sums[QUERIES][2];
        for (int q = 0; q < QUERIES; q++) sums[q][0] = load(out[q] + channel), sums[q][1] = load(out[q] + channel + WIDTH);
        for (int64_t j = begin; j < end; j++, values += stride) {
            const Floats low = load(values + channel), high = load(values + channel + WIDTH);
            for (int q = 0; q < QUERIES; q++) sums[q][0] += shares[q * width + j] * low, sums[q][1] += shares[q * width + j] * high;
        }
        for (int q = 0; q < QUERIES; q++) store(out[q] + channel, sums[q][0]), store(out[q] + channel + WIDTH, sums[q][1]);
    }

    void add_page(const float *values, int64_t begin, int64_t end, int64_t width) {
        const int64_t count = results.size();
        for (int64_t channel = 0; channel < l.channels; channel += STEP) {
            int64_t query = 0;
            for (; query + 6 <= count; query += 6) add_values<6>(query, values, begin, end, width, channel);
            for (; query + 4 <= count; query += 4) add_values<4>(query, values, begin, end, width, channel);
            if (count - query == 3) add_values<3>(query, values, begin, end, width, channel);
            else if (count - query == 2) add_values<2>(query, values, begin, end, width, channel);
            else if (count - query == 1) add_values<1>(query, values, begin, end, width, channel);
        }
    }

public:
    Attention(const Layer &layer, const Batch &batch) : l(layer), b(batch) {}

    // mixed: [rows, queries and keys and values] and attended: [rows, heads x channels], both from row `first` on.
    void run(const Tile &tile, int64_t first, const float *mixed, float *attended) {
        const int64_t count = (tile.end - tile.begin) * shared, channels = l.channels, head = tile.kv_head * shared * channels;
        const int64_t last_row = b.first_row[tile.request + 1], keys_behind = last_row - tile.end;
        const int64_t num_keys = b.num_keys[tile.request] - keys_behind, width = (num_keys + WIDTH - 1) / WIDTH * WIDTH;
        const int64_t *pages = b.pages + b.first_page[tile.request], page_size = l.page_tokens * stride;
        queries.resize(count * channels), scores.resize(count * width), results.resize(count);
        for (int64_t query = 0; query < count; query++) {
            const int64_t row = tile.begin - first + query / shared, offset = head + query % shared * channels;
            memcpy(queries.data() + query * channels, mixed + row * l.qkv.outputs + offset, channels * sizeof(float));
            results[query] = attended + row * l.num_heads * channels + offset;
            memset(results[query], 0, channels * sizeof(float));
        }
        for (int64_t begin = 0; begin < num_keys; begin += l.page_tokens) {
            const float *keys = b.keys + pages[begin / l.page_tokens] * page_size + tile.kv_head * channels;
            score_page(keys, begin, std::min(begin + l.page_tokens, num_keys), width);
        }
        for (int64_t query = 0; query < count; query++)
            share_out(scores.data() + query * width, num_keys - (tile.end - tile.begin - 1 - query / shared), width);
        for (int64_t begin = 0; begin < num_keys; begin += l.page_tokens) {
            const float *values = b.values + pages[begin / l.page_tokens] * page_size + tile.kv_head * channels;
            add_page(values, begin, std::min(begin + l.page_tokens, num_keys), width);
        }
    }
};

// Divide the rows from `first` to `last` by request, key head, and number of queries.
static std::vector<Tile> tiles_of(const Layer &l, const Batch &b, int64_t first, int64_t last) {
    const int64_t tokens = std::max<int64_t>(1, CACHED_QUERIES / (l.num_heads / l.num_kv_heads));
    std::vector<Tile> tiles;
    for (int64_t request = 0; request < b.requests; request++) {
        const int64_t end = std::min(last, b.first_row[request + 1]);
        for (int64_t begin = std::max(first, b.first_row[request]); begin < end; begin += tokens)
            for (int64_t head = 0; head < l.num_kv_heads; head++) tiles.push_back({request, begin, std::min(begin + tokens, end), head});
    }
    return tiles;
}

static void rotate_and_write(const Layer &l, const Batch &b, int64_t row, float *mixed) {
    const int64_t channels = l.channels, rotated = l.num_heads + l.num_kv_heads, stride = l.num_kv_heads * channels;
    for (int64_t h = 0; h < rotated; h++) {
        float *head = mixed + h * channels;
        if (l.head_norm) rms_norm(head, l.head_norm + h * channels, l.head_eps, channels, head);
        rotate(head, b.rotation + row * channels, channels);
    }
    memcpy(b.keys + b.write[row] * stride, mixed + l.num_heads * channels, stride * sizeof(float));
    memcpy(b.values + b.write[row] * stride, mixed + rotated * channels, stride * sizeof(float));
}

// A layer for as many rows at a time as stay in the cache; the keys of earlier ones are written by then.
class Rows {
    const Layer &l;
    const Batch &b;
    const int threads;
    const int64_t width = l.qkv.inputs, inner = l.down.inputs;
    std::vector<float> normed, mixed, attended, middle, gate_up, active, narrow;

    // Multiply the rows from `first` to `last` by a matrix, and add `plus` or null and what adapters change.
    void multiply(const Matrix Layer::*which, int pair_of, int64_t first, int64_t last, const float *x, float *y, const float *plus) {
        const Matrix &m = l.*which;
        product(x, last - first, m, y, plus, threads);
        for (int64_t c = 0; c < b.num_changes; c++) {
            const Pair &pair = b.changes[c].pairs[pair_of];
            const int64_t begin = std::max(first, b.changes[c].begin), rows = std::min(last, b.changes[c].end) - begin;
            if (!pair.rank || rows <= 0) continue;
            float *changed = y + (begin - first) * m.outputs;
            narrow.resize(rows * pair.rank);
            product(x + (begin - first) * m.inputs, rows, {pair.down, nullptr, nullptr, pair.rank, m.inputs}, narrow.data(), nullptr, threads);
            product(narrow.data(), rows, {pair.up, nullptr, nullptr, m.outputs, pair.rank}, changed, changed, threads);
        }
    }

    void attend(int64_t first, int64_t last) {
        const std::vector<Tile> tiles = tiles_of(l, b, first, last);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Attention attention(l, b);
#pragma omp for schedule(dynamic)
            for (size_t tile = 0; tile < tiles.size(); tile++) attention.run(tiles[tile], first, mixed.data(), attended.data());
        }
    }

public:
    Rows(const Layer &layer, const Batch &batch, int64_t most, int threads)
        : l(layer), b(batch), threads(threads), normed(most * width), mixed(most * l.qkv.outputs), attended(most * l.out.inputs),
          middle(most * width), gate_up(most * 2 * inner), active(most * inner) {}

    void compute(int64_t first, int64_t last, const float *hidden, float *result) {
        const int64_t rows = last - first;
        for (int64_t r = 0; r < rows; r++) rms_norm(hidden + r * width, l.input_norm, l.norm_eps, width, normed.data() + r * width);
        multiply(&Layer::qkv, 0, first, last, normed.data(), mixed.data(), nullptr);
        for (int64_t r = 0; r < rows; r++) rotate_and_write(l, b, first + r, mixed.data() + r * l.qkv.outputs);
        attend(first, last);
        multiply(&Layer::out, 1, first, last, attended.data(), middle.data(), hidden);
        for (int64_t r = 0; r < rows; r++) rms_norm(middle.data() + r * width, l.after_norm, l.norm_eps, width, normed.data() + r * width);
        multiply(&Layer::gate_up, 2, first, last, normed.data(), gate_up.data(), nullptr);
        for (int64_t r = 0; r < rows; r++) {
            const float *gate = gate_up.data() + r * 2 * inner, *up = gate + inner;
            for (int64_t i = 0; i < inner; i += WIDTH)
                store(active.data() + r * inner + i, load(gate + i) / (1.0f + exponential(-load(gate + i))) * load(up + i));
        }
        multiply(&Layer::down, 3, first, last, active.data(), result, middle.data());
    }
};

extern "C" void multiply_rows(const float *x, int64_t rows, const Matrix *matrix, float *y, int threads) {
    for (int64_t row = 0; row < rows; row += CACHED_ROWS)
        product(x + row * matrix->inputs, std::min(CACHED_ROWS, rows - row), *matrix, y + row * matrix->outputs, nullptr, threads);
}

extern "C" void compute_layer(const Layer *layer, const Batch *batch, const float *hidden, float *result, int threads) {
    const int64_t rows = batch->rows, width = layer->qkv.inputs;
    Rows part(*layer, *batch, std::min(rows, CACHED_ROWS), threads);
    for (int64_t row = 0; row < rows; row += CACHED_ROWS)
        part.compute(row, std::min(rows, row + CACHED_ROWS), hidden + row * width, result + row * width);
}
