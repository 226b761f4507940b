// Checks the compiled library by itself, where no Python runs it: against sums in double, row by row against all rows at
// once, and what it refuses. Prints what is wrong and exits with 1.
#include "decoder.cpp"
#include <cstdio>
#include <random>

static int failures = 0;

static void check(bool is_right, const char *what, int64_t number) {
    if (is_right) return;
    failures++;
    printf("wrong: %s (%lld)\n", what, (long long)number);
}

static std::mt19937 generator(7);

static std::vector<float> normal(int64_t size, float scale = 1) {
    std::normal_distribution<float> draw(0, scale);
    std::vector<float> values(size);
    for (float &value : values) value = draw(generator);
    return values;
}

static float to_bfloat(float value, uint16_t &bits) {
    uint32_t whole;
    memcpy(&whole, &value, sizeof whole);
    bits = whole >> 16, whole &= 0xffff0000u;
    memcpy(&value, &whole, sizeof whole);
    return value;
}

// Relative error of products [rows, outputs] by the largest element.
static double error_of(const std::vector<float> &y, const std::vector<float> &x, const std::vector<float> &w,
                       const float *scale, const float *bias, int64_t outputs, int64_t inputs) {
    double largest = 0, difference = 0;
    for (size_t at = 0; at < y.size(); at++) {
        const int64_t row = at / outputs, col = at % outputs;
        double sum = 0;
        for (int64_t i = 0; i < inputs; i++) sum += (double)x[row * inputs + i] * w[col * inputs + i];
        sum = sum * (scale ? scale[col] : 1) + bias[col];
        largest = std::max(largest, std::fabs(sum)), difference = std::max(difference, std::fabs(sum - y[at]));
    }
    return difference / largest;
}

static void check_products(int64_t rows, int64_t outputs, int64_t inputs, int threads) {
    const std::vector<float> x = normal(rows * inputs), bias = normal(outputs);
    std::vector<float> w = normal(outputs * inputs), integers(w.size()), scale(outputs, 0.02f);
    std::vector<uint16_t> halves(w.size());
    std::vector<int8_t> bytes(w.size());
    for (size_t i = 0; i < w.size(); i++) {
        w[i] = to_bfloat(w[i], halves[i]);
        bytes[i] = (int8_t)std::max(-127.0f, std::min(127.0f, std::nearbyint(w[i] * 40))), integers[i] = bytes[i];
    }
    const Matrix matrices[] = {{w.data(), nullptr, bias.data(), outputs, inputs, FLOAT32},
                               {halves.data(), nullptr, bias.data(), outputs, inputs, BFLOAT16},
                               {bytes.data(), scale.data(), bias.data(), outputs, inputs, INT8}};
    std::vector<float> results[3];
    for (int which = 0; which < 3; which++) {
        const Matrix &matrix = matrices[which];
        std::vector<float> &y = results[which];
        y.resize(rows * outputs);
        check(multiply_rows(x.data(), rows, &matrix, y.data(), threads) == DONE, "status of a product", matrix.format);
        const bool is_int8 = matrix.format == INT8;
        const double error = error_of(y, x, is_int8 ? integers : w, is_int8 ? scale.data() : nullptr, bias.data(), outputs, inputs);
        check(error < (is_int8 ? 1e-3 : 1e-5), "products against double, format", matrix.format);
        std::vector<float> alone(outputs);
        for (int64_t row = 0; row < rows; row++) {
            multiply_rows(x.data() + row * inputs, 1, &matrix, alone.data(), 1);
            check(!memcmp(alone.data(), y.data() + row * outputs, outputs * sizeof(float)), "a row alone, format", matrix.format);
        }
    }
    check(results[0] == results[1], "bfloat16 and float32 with the same values, rows", rows);
}

// A decoder layer with its weights, pages and rotation, for `rows` tokens of one request.
struct Example {
    static const int64_t WIDE = 64, HEADS = 4, KV_HEADS = 2, CHANNELS = 16, INNER = 96, PAGE = 32, ROWS = 70;
    static const int64_t MIXED = (HEADS + 2 * KV_HEADS) * CHANNELS, STRIDE = KV_HEADS * CHANNELS;
    std::vector<float> qkv = normal(MIXED * WIDE, 0.2f), out = normal(WIDE * HEADS * CHANNELS, 0.2f);
    std::vector<float> gate_up = normal(2 * INNER * WIDE, 0.2f), down = normal(WIDE * INNER, 0.2f);
    std::vector<float> input_norm = normal(WIDE), after_norm = normal(WIDE), hidden = normal(ROWS * WIDE), rotation;
    Layer layer;

    Example() {
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t i = 0; i < CHANNELS / 2; i++) rotation.push_back(std::cos(row * 0.1f * i)), rotation.push_back(std::sin(row * 0.1f * i));
        layer = {{qkv.data(), nullptr, nullptr, MIXED, WIDE, FLOAT32}, {out.data(), nullptr, nullptr, WIDE, HEADS * CHANNELS, FLOAT32},
                 {gate_up.data(), nullptr, nullptr, 2 * INNER, WIDE, FLOAT32}, {down.data(), nullptr, nullptr, WIDE, INNER, FLOAT32},
                 input_norm.data(), after_norm.data(), nullptr, 1e-5f, 0, 0.25f, HEADS, KV_HEADS, CHANNELS, PAGE};
    }

    // Compute the rows `step` at a time, with pages in another order than the tokens.
    std::vector<float> compute(int64_t step, int threads) {
        std::vector<float> keys(4 * PAGE * STRIDE), values(4 * PAGE * STRIDE), result(ROWS * WIDE);
        const int64_t pages[] = {2, 0, 3}, first_page[] = {0, 3};
        for (int64_t first = 0; first < ROWS; first += step) {
            const int64_t rows = std::min(step, ROWS - first), first_row[] = {0, rows}, num_keys = first + rows;
            std::vector<int64_t> write;
            for (int64_t row = first; row < first + rows; row++) write.push_back(pages[row / PAGE] * PAGE + row % PAGE);
            const Batch batch = {rows, 1, rotation.data() + first * CHANNELS, write.data(), first_row, pages, first_page, &num_keys,
                                 keys.data(), values.data(), nullptr, 0, rows * CHANNELS};
            const int status = compute_layers(&layer, &batch, 1, hidden.data() + first * WIDE, result.data() + first * WIDE, threads);
            check(status == DONE, "status of a layer", status);
        }
        return result;
    }

    static std::vector<double> product(const std::vector<double> &x, const std::vector<float> &w, int64_t outputs) {
        std::vector<double> y(outputs);
        for (int64_t o = 0; o < outputs; o++)
            for (size_t i = 0; i < x.size(); i++) y[o] += x[i] * w[o * x.size() + i];
        return y;
    }

    static std::vector<double> norm(const std::vector<double> &x, const std::vector<float> &weight) {
        double squares = 0;
        for (double value : x) squares += value * value;
        std::vector<double> y(x);
        for (size_t i = 0; i < x.size(); i++) y[i] *= weight[i] / std::sqrt(squares / x.size() + 1e-5);
        return y;
    }

    // The same layer in double, head by head.
    std::vector<double> expected() {
        std::vector<std::vector<double>> mixed;
        std::vector<double> results;
        for (int64_t row = 0; row < ROWS; row++) {
            const std::vector<double> x(hidden.begin() + row * WIDE, hidden.begin() + (row + 1) * WIDE);
            std::vector<double> m = product(norm(x, input_norm), qkv, MIXED), attended(HEADS * CHANNELS);
            for (int64_t h = 0; h < HEADS + KV_HEADS; h++)
                for (int64_t i = 0; i < CHANNELS; i += 2) {
                    const double real = m[h * CHANNELS + i], imaginary = m[h * CHANNELS + i + 1];
                    const double cosine = rotation[row * CHANNELS + i], sine = rotation[row * CHANNELS + i + 1];
                    m[h * CHANNELS + i] = real * cosine - imaginary * sine, m[h * CHANNELS + i + 1] = real * sine + imaginary * cosine;
                }
            mixed.push_back(m);
            for (int64_t h = 0; h < HEADS; h++) {
                const int64_t key = (HEADS + h / (HEADS / KV_HEADS)) * CHANNELS, value = key + KV_HEADS * CHANNELS;
                std::vector<double> shares;
                double sum = 0;
                for (const std::vector<double> &other : mixed) {
                    double score = 0;
                    for (int64_t i = 0; i < CHANNELS; i++) score += m[h * CHANNELS + i] * other[key + i];
                    shares.push_back(std::exp(0.25 * score)), sum += shares.back();
                }
                for (size_t j = 0; j < mixed.size(); j++)
                    for (int64_t i = 0; i < CHANNELS; i++) attended[h * CHANNELS + i] += shares[j] / sum * mixed[j][value + i];
            }
            std::vector<double> middle = product(attended, out, WIDE);
            for (int64_t i = 0; i < WIDE; i++) middle[i] += x[i];
            const std::vector<double> both = product(norm(middle, after_norm), gate_up, 2 * INNER);
            std::vector<double> active(INNER);
            for (int64_t i = 0; i < INNER; i++) active[i] = both[i] / (1 + std::exp(-both[i])) * both[INNER + i];
            const std::vector<double> last = product(active, down, WIDE);
            for (int64_t i = 0; i < WIDE; i++) results.push_back(middle[i] + last[i]);
        }
        return results;
    }
};

static void check_layer() {
    Example example;
    const std::vector<double> expected = example.expected();
    const std::vector<float> whole = example.compute(Example::ROWS, 1);
    double difference = 0, largest = 0;
    for (size_t i = 0; i < whole.size(); i++)
        difference = std::max(difference, std::fabs(whole[i] - expected[i])), largest = std::max(largest, std::fabs(expected[i]));
    check(difference < 1e-4 * largest, "a layer against double, 1e-9 of the largest", (int64_t)(1e9 * difference / largest));
    check(whole == example.compute(1, 1), "tokens one by one", 1);
    check(whole == example.compute(9, 2), "tokens nine by nine in two threads", 9);
}

static void check_refusals() {
    std::vector<float> x(64), y(64), scale(4);
    Matrix matrix = {x.data(), nullptr, nullptr, 4, 16, FLOAT32};
    const auto status = [&](int64_t rows) { return multiply_rows(x.data(), rows, &matrix, y.data(), 2); };
    matrix.format = 9;
    check(status(1) == UNREADABLE, "a format that there is not", status(1));
    matrix.format = INT8;
    check(status(1) == UNREADABLE, "int8 without scales", status(1));
#ifndef __F16C__
    matrix.format = FLOAT16;
    check(status(1) == UNREADABLE, "float16 where it can't be loaded", status(1));
#endif
    matrix.format = FLOAT32, matrix.inputs = 17;
    check(status(1) == UNREADABLE, "inputs that are no whole steps", status(1));
    matrix.inputs = int64_t(1) << 62, matrix.format = INT8, matrix.scale = scale.data();
    check(status(1) == NO_MEMORY, "rounded activations without memory", status(1));
    matrix.inputs = int64_t(1) << 60, matrix.format = BFLOAT16;
    if (IS_BFLOAT_WIDENED_ONCE) check(status(WIDENED_ROWS) == NO_MEMORY, "widened weights without memory, in threads", status(WIDENED_ROWS));
    Example example;
    const int64_t first_row[] = {0, 1}, zero[] = {0, 1}, num_keys = int64_t(1) << 61;
    std::vector<float> pages(Example::PAGE * Example::STRIDE);
    Batch batch = {1, 1, example.rotation.data(), zero, first_row, zero, zero, &num_keys, pages.data(), pages.data(), nullptr, 0, 8};
    const auto layer_status = [&] { return compute_layers(&example.layer, &batch, 1, example.hidden.data(), x.data(), 2); };
    check(layer_status() == SHORT_ROTATION, "a rotation that is too small", layer_status());
    batch.rotation_size = Example::CHANNELS;
    check(layer_status() == NO_MEMORY, "scores without memory, in threads", layer_status());
    example.layer.down.inputs = 32;
    check(layer_status() == UNREADABLE, "products that do not fit each other", layer_status());
}

int main() {
    for (int64_t rows : {1, 2, 3, 4, 5, 12, 23, 24, 29, 70})
        for (int threads : {1, 2}) check_products(rows, 45, 1040, threads);
    check_products(3, 4, 16, 1), check_products(30, 17, 32, 1);
    check_layer();
    check_refusals();
    printf("processor:%s; failures: %d\n", library_processor(), failures);
    return failures != 0;
}
