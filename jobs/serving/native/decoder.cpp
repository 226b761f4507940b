// One decoder layer for the rows of a batch, each a token of a request, a new one or one of a prompt: the arithmetic of FusedLayer without an
// operator per line. Weights are float32, bfloat16 or float16 with activations in float32, or int8 with one scale per output and activations in
// int16 with one scale per row. A row's result does not depend on the other rows: a token of a prompt and the same token generated have the same bits.
#include "products.h"
#include <cstddef>

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *input_norm, *after_norm, *head_norm;  // head_norm: [rotated heads, channels] or null
    float norm_eps, head_eps, attention_scale;
    int64_t num_heads, num_kv_heads, channels, page_tokens;
};

// One product's change by a LoRA adapter: up (down x), of [rank, inputs] and [outputs, rank], rank a multiple of STEP; 0 changes nothing.
struct AdapterPair { const float *down, *up; int64_t rank; };

// Rows with one adapter, and its pairs for a layer's qkv, out, gate_up and down.
struct Change { int64_t begin, end; const AdapterPair *pairs; };

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
    int64_t rotation_size;         // numbers behind `rotation`
};

// Tokens of one request and one key head, whose queries attend together.
struct Tile { int64_t request, begin, end, kv_head; };

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
    Buffer<float> queries, scores;  // [queries, channels] and [queries, width]
    std::vector<float *> results;

    template <int QUERIES>
    void score(int64_t query, const float *keys, int64_t key, int64_t width) {
        Four sums[QUERIES];
        block<QUERIES, true, 1>(queries.data() + query * l.channels, l.channels, keys, stride, l.channels, (const char *)keys, 0, sums);
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
            for (int q = 0; q < QUERIES; q++) {
                const Floats share = Floats{} + shares[q * width + j];
                sums[q][0] = add_product(share, low, sums[q][0]), sums[q][1] = add_product(share, high, sums[q][1]);
            }
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

// Memory of a part of the rows, the same for all layers: given back after each, it would be cleared by the system each time.
struct Space { Buffer<float> normed, mixed, attended, middle, gate_up, active, narrow; };

// A layer for as many rows at a time as stay in the cache; the keys of earlier ones are written by then.
class Rows {
    const Layer &l;
    const Batch &b;
    const int threads;
    const int64_t width = l.qkv.inputs, inner = l.down.inputs;
    Space &s;

    // Multiply the rows from `first` to `last` by a matrix, and add `plus` or null and what adapters change.
    void multiply(const Matrix Layer::*which, int pair_of, int64_t first, int64_t last, const float *x, float *y, const float *plus) {
        const Matrix &m = l.*which;
        product(x, last - first, m, y, plus, threads);
        for (int64_t c = 0; c < b.num_changes; c++) {
            const AdapterPair &pair = b.changes[c].pairs[pair_of];
            const int64_t begin = std::max(first, b.changes[c].begin), rows = std::min(last, b.changes[c].end) - begin;
            if (!pair.rank || rows <= 0) continue;
            float *changed = y + (begin - first) * m.outputs;
            s.narrow.resize(rows * pair.rank);
            product(x + (begin - first) * m.inputs, rows, {pair.down, nullptr, nullptr, pair.rank, m.inputs, FLOAT32}, s.narrow.data(), nullptr, threads);
            product(s.narrow.data(), rows, {pair.up, nullptr, nullptr, m.outputs, pair.rank, FLOAT32}, changed, changed, threads);
        }
    }

    // Work on each of a prompt's rows, which threads share; those of a step are done before a thread is awake.
    template <class Work>
    void each(int64_t rows, Work work) const {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows >= WIDENED_ROWS)
        for (int64_t r = 0; r < rows; r++) work(r);
    }

    void attend(int64_t first, int64_t last) {
        const std::vector<Tile> tiles = tiles_of(l, b, first, last);
        Shortage shortage;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Attention attention(l, b);
#pragma omp for schedule(dynamic)
            for (size_t tile = 0; tile < tiles.size(); tile++) {
                try {
                    attention.run(tiles[tile], first, s.mixed.data(), s.attended.data());
                } catch (...) {
                    shortage.note();
                }
            }
        }
        shortage.raise();
    }

public:
    Rows(const Layer &layer, const Batch &batch, int64_t most, int threads, Space &space) : l(layer), b(batch), threads(threads), s(space) {
        s.normed.resize(most * width), s.mixed.resize(most * l.qkv.outputs), s.attended.resize(most * l.out.inputs);
        s.middle.resize(most * width), s.gate_up.resize(most * 2 * inner), s.active.resize(most * inner);
    }

    void compute(int64_t first, int64_t last, const float *hidden, float *result) {
        const int64_t rows = last - first;
        each(rows, [&](int64_t r) { rms_norm(hidden + r * width, l.input_norm, l.norm_eps, width, s.normed.data() + r * width); });
        multiply(&Layer::qkv, 0, first, last, s.normed.data(), s.mixed.data(), nullptr);
        each(rows, [&](int64_t r) { rotate_and_write(l, b, first + r, s.mixed.data() + r * l.qkv.outputs); });
        attend(first, last);
        multiply(&Layer::out, 1, first, last, s.attended.data(), s.middle.data(), hidden);
        each(rows, [&](int64_t r) { rms_norm(s.middle.data() + r * width, l.after_norm, l.norm_eps, width, s.normed.data() + r * width); });
        multiply(&Layer::gate_up, 2, first, last, s.normed.data(), s.gate_up.data(), nullptr);
        each(rows, [&](int64_t r) {
            const float *gate = s.gate_up.data() + r * 2 * inner, *up = gate + inner;
            for (int64_t i = 0; i < inner; i += WIDTH)
                store(s.active.data() + r * inner + i, load(gate + i) / (1.0f + exponential(-load(gate + i))) * load(up + i));
        });
        multiply(&Layer::down, 3, first, last, s.active.data(), result, s.middle.data());
    }
};

// Rows that are computed at a time: parts are equal, since a small last one would take as long as a step to read the weights.
static int64_t part_of(int64_t rows) {
    const int64_t parts = (rows + CACHED_ROWS - 1) / CACHED_ROWS;
    return parts ? (rows + parts - 1) / parts : 1;
}

// Whether a layer's products fit each other, its heads and its pages.
static bool is_consistent(const Layer &l) {
    const int64_t width = l.qkv.inputs, heads = l.num_heads, kv_heads = l.num_kv_heads, channels = l.channels;
    if (!is_readable(l.qkv) || !is_readable(l.out) || !is_readable(l.gate_up) || !is_readable(l.down)) return false;
    if (heads <= 0 || kv_heads <= 0 || heads % kv_heads || channels <= 0 || channels % STEP || l.page_tokens <= 0) return false;
    if (l.qkv.outputs != (heads + 2 * kv_heads) * channels || l.out.inputs != heads * channels) return false;
    return l.out.outputs == width && l.gate_up.inputs == width && l.down.outputs == width && l.gate_up.outputs == 2 * l.down.inputs;
}

enum Status : int { DONE, SHORT_ROTATION, UNREADABLE, NO_MEMORY };

// No exception crosses into C: the caller has no frames for it.
template <class Work>
static int without_throwing(Work work) noexcept {
    try {
        return work();
    } catch (...) {  // buffers are all that is allocated
        return NO_MEMORY;
    }
}

// What the caller's structures must be like, by name; a library with other facts is not called.
struct Fact { const char *name; int64_t value; };
#define SIZE(type) {#type, sizeof(type)}
#define AT(type, field) {#type "." #field, offsetof(type, field)}
static const Fact FACTS[] = {
    {"version", 3},
    {"STEP", STEP}, {"GROUP", GROUP},
    {"FLOAT32", FLOAT32}, {"BFLOAT16", BFLOAT16}, {"FLOAT16", FLOAT16}, {"INT8", INT8},
    {"DONE", DONE}, {"SHORT_ROTATION", SHORT_ROTATION}, {"UNREADABLE", UNREADABLE}, {"NO_MEMORY", NO_MEMORY},
    SIZE(Matrix), AT(Matrix, weight), AT(Matrix, scale), AT(Matrix, bias), AT(Matrix, outputs), AT(Matrix, inputs), AT(Matrix, format),
    SIZE(Layer), AT(Layer, qkv), AT(Layer, out), AT(Layer, gate_up), AT(Layer, down),
    AT(Layer, input_norm), AT(Layer, after_norm), AT(Layer, head_norm), AT(Layer, norm_eps), AT(Layer, head_eps), AT(Layer, attention_scale),
    AT(Layer, num_heads), AT(Layer, num_kv_heads), AT(Layer, channels), AT(Layer, page_tokens),
    SIZE(AdapterPair), AT(AdapterPair, down), AT(AdapterPair, up), AT(AdapterPair, rank),
    SIZE(Change), AT(Change, begin), AT(Change, end), AT(Change, pairs),
    SIZE(Batch), AT(Batch, rows), AT(Batch, requests), AT(Batch, rotation), AT(Batch, write), AT(Batch, first_row),
    AT(Batch, pages), AT(Batch, first_page), AT(Batch, num_keys), AT(Batch, keys), AT(Batch, values), AT(Batch, changes),
    AT(Batch, num_changes), AT(Batch, rotation_size),
    {nullptr, 0},
};
static_assert(std::is_standard_layout<Matrix>::value && std::is_standard_layout<Layer>::value && std::is_standard_layout<Batch>::value, "");

extern "C" const Fact *library_facts() noexcept { return FACTS; }

// The instructions that it was compiled for, and whether it uses threads.
extern "C" const char *library_processor() noexcept {
    return ""
#ifdef HAS_512_BITS
        " AVX-512"
#endif
#if defined(__AVX2__)
        " AVX2"
#elif defined(__ARM_NEON)
        " NEON"
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
        " FMA"
#endif
#ifdef __F16C__
        " F16C"
#endif
#ifdef _OPENMP
        " threads"
#endif
        ;
}

extern "C" int multiply_rows(const float *x, int64_t rows, const Matrix *matrix, float *y, int threads) noexcept {
    if (!is_readable(*matrix)) return UNREADABLE;
    return without_throwing([&]() -> int {
        const int64_t part = part_of(rows);
        for (int64_t row = 0; row < rows; row += part)
            product(x + row * matrix->inputs, std::min(part, rows - row), *matrix, y + row * matrix->outputs, nullptr, threads);
        return DONE;
    });
}

// One layer after the other, each with its view of the batch: threads that wait between products need not be woken for each layer.
// Has computed nothing where a rotation holds less than a head's channels for each row, or where the parts of the layers do not fit each other.
extern "C" int compute_layers(const Layer *layers, const Batch *batches, int64_t count, const float *hidden, float *result, int threads) noexcept {
    const int64_t rows = batches->rows, width = layers->qkv.inputs, most = part_of(rows);
    for (int64_t i = 0; i < count; i++) {
        if (batches[i].rotation_size < rows * layers[i].channels) return SHORT_ROTATION;
        if (!is_consistent(layers[i]) || layers[i].qkv.inputs != width || batches[i].rows != rows) return UNREADABLE;
    }
    return without_throwing([&]() -> int {
        Buffer<float> between(count > 1 ? rows * width : 0);
        Space space;
        const float *from = hidden;
        for (int64_t i = 0; i < count; i++) {
            float *next = (count - i) % 2 ? result : between.data();  // the last is the result
            Rows part(layers[i], batches[i], most, threads, space);
            for (int64_t row = 0; row < rows; row += most)
                part.compute(row, std::min(rows, row + most), from + row * width, next + row * width);
            from = next;
        }
        return DONE;
    });
}
