// The operations of src/ops on CUDA, in f32. One file, compiled to PTX by build.rs; emulator.cpp compiles the same text for the CPU, where
// the tests run it.
//
// Two shapes of launch:
// - element kernels: any number of blocks, each thread takes every so many-th element;
// - plane kernels: `chunks` blocks per plane (an image's channel), block p * chunks + k takes CHUNK elements of plane p from k * CHUNK.
// Sums are made in a fixed order: threads of a block by a tree, blocks of a plane by a second kernel that adds their parts one by one.
// (Longer than the other files of this crate: it is one module of the driver.) There are no atomics, so a result never differs from run to run. A pointer may be null where its comment says so.

#ifndef KERNEL
#define KERNEL extern "C" __global__ void
#endif

typedef long long Long;

#define THREADS 256
#define CHUNK 16384

#define EACH(i, n) \
    for (Long i = blockIdx.x * (Long)THREADS + threadIdx.x; i < (n); i += (Long)gridDim.x * THREADS)

// The part of its plane that a block works on: elements i of plane p, `size` elements to a plane.
#define PLANE(p, size, chunks)              \
    const Long p = blockIdx.x / (chunks);   \
    const int first_ = (int)(blockIdx.x % (chunks)) * CHUNK; \
    const int last_ = (size) - first_ < CHUNK ? (size) : first_ + CHUNK;
#define EACH_OF_PLANE(i) for (int i = first_ + (int)threadIdx.x; i < last_; i += THREADS)

// The sum over the threads of a block, known to all of them.
__device__ float block_sum(float v)
{
    __shared__ float part[THREADS];
    part[threadIdx.x] = v;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    const float total = part[0];
    __syncthreads();
    return total;
}

__device__ float block_max(float v)
{
    __shared__ float part[THREADS];
    part[threadIdx.x] = v;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]);
        __syncthreads();
    }
    const float top = part[0];
    __syncthreads();
    return top;
}

__device__ float leaky(float v, float slope)
{
    const float low = slope * v;
    return v > low ? v : low;
}

// ---- activations

KERNEL leaky_relu(Long n, float slope, const float *x, float *y)
{
    EACH(i, n) y[i] = leaky(x[i], slope);
}

// dx = g where `kept` is positive, else slope * g.
KERNEL leaky_relu_back(Long n, float slope, const float *kept, const float *g, float *dx)
{
    EACH(i, n) dx[i] = kept[i] > 0.f ? g[i] : slope * g[i];
}

// y = leaky(x + strength[c] * noise + bias[c]). noise (null: none) has one map, or one per image with `maps` = 1. strength and bias
// (null: 0) hold one value per channel, or one in all with their count 1. y may be x.
KERNEL noise_bias_lrelu(int plane, int chunks, int c, int maps, int strengths, int biases, float slope, const float *x, const float *noise,
                        const float *strength, const float *bias, float *y)
{
    PLANE(p, plane, chunks)
    const int channel = (int)(p % c);
    const float b = bias ? bias[biases == 1 ? 0 : channel] : 0.f;
    const float s = noise ? strength[strengths == 1 ? 0 : channel] : 0.f;
    const float *z = noise ? noise + (maps ? p / c * plane : 0) : 0;
    x += p * plane;
    y += p * plane;
    EACH_OF_PLANE(i)
    {
        float v = x[i];
        if (z) v += s * z[i];
        y[i] = leaky(v + b, slope);
    }
}

// The gradient of x (dx, null: not wanted), and for each block the sums of dx and of dx * noise (parts [planes * chunks, 2], null: not
// wanted). `kept` is the result, null where the slope is 1.
KERNEL noise_bias_lrelu_back(int plane, int chunks, int c, int maps, float slope, const float *kept, const float *g, const float *noise,
                             float *dx, float *parts)
{
    PLANE(p, plane, chunks)
    const float *z = noise ? noise + (maps ? p / c * plane : 0) : 0;
    float plain = 0.f, weighted = 0.f;
    EACH_OF_PLANE(i)
    {
        const Long at = p * plane + i;
        const float d = !kept || kept[at] > 0.f ? g[at] : slope * g[at];
        if (dx) dx[at] = d;
        plain += d;
        if (z) weighted += d * z[i];
    }
    if (!parts) return;
    plain = block_sum(plain);
    weighted = block_sum(weighted);
    if (threadIdx.x == 0) {
        parts[2 * (Long)blockIdx.x] = plain;
        parts[2 * (Long)blockIdx.x + 1] = weighted;
    }
}

// Adds the parts [n, c, chunks, 2] of every channel in order: out [2, c].
KERNEL channel_sums(int n, int c, int chunks, const float *parts, float *out)
{
    EACH(i, c)
    {
        float plain = 0.f, weighted = 0.f;
        for (int b = 0; b < n; b++)
            for (int k = 0; k < chunks; k++) {
                const float *part = parts + 2 * (((Long)b * c + i) * chunks + k);
                plain += part[0];
                weighted += part[1];
            }
        out[i] = plain;
        out[c + i] = weighted;
    }
}

// ---- rows: log-softmax over each image

// The largest value of every block and the sum of exp(x - largest): parts [rows * chunks, 2].
KERNEL softmax_parts(int row, int chunks, const float *x, float *parts)
{
    PLANE(p, row, chunks)
    x += p * row;
    float top = -INFINITY;
    EACH_OF_PLANE(i) top = fmaxf(top, x[i]);
    top = block_max(top);
    float sum = 0.f;
    EACH_OF_PLANE(i) sum += expf(x[i] - top);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        parts[2 * (Long)blockIdx.x] = top;
        parts[2 * (Long)blockIdx.x + 1] = sum;
    }
}

// log sum exp of every row.
KERNEL softmax_join(int rows, int chunks, const float *parts, float *out)
{
    EACH(i, rows)
    {
        const float *part = parts + 2 * i * chunks;
        float top = part[0], sum = 0.f;
        for (int k = 1; k < chunks; k++) top = fmaxf(top, part[2 * k]);
        for (int k = 0; k < chunks; k++) sum += part[2 * k + 1] * expf(part[2 * k] - top);
        out[i] = top + logf(sum);
    }
}

KERNEL log_softmax(int row, int chunks, const float *x, const float *lse, float *y)
{
    PLANE(p, row, chunks)
    EACH_OF_PLANE(i) y[p * row + i] = x[p * row + i] - lse[p];
}

// sums [rows, 2]: the first is the sum of the row's gradient.
KERNEL log_softmax_back(int row, int chunks, const float *y, const float *g, const float *sums, float *dx)
{
    PLANE(p, row, chunks)
    const float total = sums[2 * p];
    EACH_OF_PLANE(i) dx[p * row + i] = g[p * row + i] - expf(y[p * row + i]) * total;
}

// Adds the parts [rows, chunks, 2] of every row in order: out [rows, 2].
KERNEL row_sums(int rows, int chunks, const float *parts, float *out)
{
    EACH(i, rows)
    {
        float plain = 0.f, weighted = 0.f;
        for (int k = 0; k < chunks; k++) {
            plain += parts[2 * (i * chunks + k)];
            weighted += parts[2 * (i * chunks + k) + 1];
        }
        out[2 * i] = plain;
        out[2 * i + 1] = weighted;
    }
}

// ---- pointwise

KERNEL mix(Long n, float a, const float *x, float b, const float *y, float *out)
{
    EACH(i, n) out[i] = a * x[i] + b * y[i];
}

KERNEL scaled(Long n, float a, const float *x, float *out)
{
    EACH(i, n) out[i] = a * x[i];
}

// out = factors[c] * x + factors[C + c]; without the second if `shifted` is 0.
KERNEL channel_affine(int plane, int chunks, int c, int shifted, const float *factors, const float *x, float *out)
{
    PLANE(p, plane, chunks)
    const int channel = (int)(p % c);
    const float a = factors[channel], b = shifted ? factors[c + channel] : 0.f;
    EACH_OF_PLANE(i) out[p * plane + i] = a * x[p * plane + i] + b;
}

// The sum of (x - y)^2 of every block of CHUNK elements, as `parts` [blocks, 2] with zeros beside.
KERNEL squares_parts(Long n, const float *x, const float *y, float *parts)
{
    const Long first = blockIdx.x * (Long)CHUNK, last = n - first < CHUNK ? n : first + CHUNK;
    float sum = 0.f;
    for (Long i = first + threadIdx.x; i < last; i += THREADS) {
        const float d = x[i] - y[i];
        sum += d * d;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        parts[2 * (Long)blockIdx.x] = sum;
        parts[2 * (Long)blockIdx.x + 1] = 0.f;
    }
}

// The sum of all parts [count, 2] (first of each), times `scale`, by one block.
KERNEL total_of_parts(int count, float scale, const float *parts, float *out)
{
    float sum = 0.f;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += parts[2 * (Long)i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum * scale;
}

// dx = g[0] * scale * (x - y).
KERNEL squares_back(Long n, float scale, const float *g, const float *x, const float *y, float *dx)
{
    const float k = g[0] * scale;
    EACH(i, n) dx[i] = k * (x[i] - y[i]);
}

// ---- normalisation of planes

// The number, mean and sum of squared deviations of two sets as those of their union (Chan, Golub and LeVeque, 1979).
__device__ void join_moments(float *n, float *mean, float *m2, float n2, float mean2, float m22)
{
    const float all = *n + n2, d = mean2 - *mean;
    *mean += d * (n2 / all);
    *m2 += m22 + d * d * (*n * (n2 / all));
    *n = all;
}

// Mean and sum of squared deviations of every block: parts [planes * chunks, 2].
KERNEL moments_parts(int plane, int chunks, const float *x, float *parts)
{
    PLANE(p, plane, chunks)
    x += p * plane;
    float sum = 0.f, squares = 0.f;
    EACH_OF_PLANE(i) sum += x[i];
    const float mean = block_sum(sum) / (float)(last_ - first_);
    EACH_OF_PLANE(i) squares += (x[i] - mean) * (x[i] - mean);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        parts[2 * (Long)blockIdx.x] = mean;
        parts[2 * (Long)blockIdx.x + 1] = squares;
    }
}

// Mean and biased variance of every plane: out [planes, 2].
KERNEL moments_join(int planes, int plane, int chunks, const float *parts, float *out)
{
    EACH(i, planes)
    {
        const float *part = parts + 2 * i * chunks;
        float n = (float)(plane < CHUNK ? plane : CHUNK), mean = part[0], m2 = part[1];
        for (int k = 1; k < chunks; k++) {
            const int left = plane - k * CHUNK;
            join_moments(&n, &mean, &m2, (float)(left < CHUNK ? left : CHUNK), part[2 * k], part[2 * k + 1]);
        }
        out[2 * i] = mean;
        out[2 * i + 1] = m2 / (float)plane;
    }
}

// y = (x - mean) / sqrt(var + eps) * (scale + 1) + shift, with the style [b, 2C] (null: scale and shift 0).
KERNEL normalise(int plane, int chunks, int c, float eps, const float *x, const float *moments, const float *style, float *y)
{
    PLANE(p, plane, chunks)
    const float mean = moments[2 * p], r = 1.f / sqrtf(moments[2 * p + 1] + eps);
    const float *s = style ? style + p / c * 2 * c + p % c : 0;
    const float k = s ? r * (s[0] + 1.f) : r, shift = s ? s[c] : 0.f;
    EACH_OF_PLANE(i) y[p * plane + i] = (x[p * plane + i] - mean) * k + shift;
}

// For every block the sums of g and of g * (x - mean): parts [planes * chunks, 2].
KERNEL normalise_parts(int plane, int chunks, const float *x, const float *g, const float *moments, float *parts)
{
    PLANE(p, plane, chunks)
    const float mean = moments[2 * p];
    float plain = 0.f, weighted = 0.f;
    EACH_OF_PLANE(i)
    {
        plain += g[p * plane + i];
        weighted += g[p * plane + i] * (x[p * plane + i] - mean);
    }
    plain = block_sum(plain);
    weighted = block_sum(weighted);
    if (threadIdx.x == 0) {
        parts[2 * (Long)blockIdx.x] = plain;
        parts[2 * (Long)blockIdx.x + 1] = weighted;
    }
}

// dx from the sums [planes, 2] of `normalise_parts`; style as in `normalise`.
KERNEL normalise_back(int plane, int chunks, int c, float eps, const float *x, const float *g, const float *moments, const float *sums,
                      const float *style, float *dx)
{
    PLANE(p, plane, chunks)
    const float mean = moments[2 * p], r = 1.f / sqrtf(moments[2 * p + 1] + eps);
    const float k = style ? r * (style[p / c * 2 * c + p % c] + 1.f) : r;
    const float a = sums[2 * p] / (float)plane, b = sums[2 * p + 1] * r / (float)plane * r;
    EACH_OF_PLANE(i) dx[p * plane + i] = k * (g[p * plane + i] - a - (x[p * plane + i] - mean) * b);
}

// The gradient of the style [b, 2C] of `normalise`.
KERNEL style_back(int planes, int c, float eps, const float *moments, const float *sums, float *ds)
{
    EACH(p, planes)
    {
        float *d = ds + p / c * 2 * c + p % c;
        d[0] = sums[2 * p + 1] / sqrtf(moments[2 * p + 1] + eps);
        d[c] = sums[2 * p];
    }
}

// [b, 2C]: means, then standard deviations.
KERNEL style_stats(int planes, int c, const float *moments, float *out)
{
    EACH(p, planes)
    {
        float *o = out + p / c * 2 * c + p % c;
        o[0] = moments[2 * p];
        o[c] = sqrtf(moments[2 * p + 1]);
    }
}

KERNEL style_stats_back(int plane, int chunks, int c, const float *x, const float *g, const float *moments, float *dx)
{
    PLANE(p, plane, chunks)
    const float mean = moments[2 * p], var = moments[2 * p + 1];
    const float *s = g + p / c * 2 * c + p % c;
    const float by_mean = s[0] / (float)plane;
    const float by_std = var > 0.f ? s[c] / ((float)plane * sqrtf(var)) : 0.f;
    EACH_OF_PLANE(i) dx[p * plane + i] = by_mean + by_std * (x[p * plane + i] - mean);
}

// ---- norms over channels; x [b, c, s], a place is one of b * s

// A block has 32 places and 8 shares of the channels.
#define PLACES 32
#define SHARES (THREADS / PLACES)

__device__ float over_shares(float v)
{
    __shared__ float part[THREADS];
    part[threadIdx.x] = v;
    __syncthreads();
    float sum = 0.f;
    for (int k = 0; k < SHARES; k++) sum += part[k * PLACES + threadIdx.x % PLACES];
    __syncthreads();
    return sum;
}

// The factor of x for the sum of squares q, and 2 d factor / d q. kind 0: pixel norm, 1: unit length.
__device__ float length_factor(int kind, float q, float c, float eps)
{
    return kind == 0 ? 1.f / sqrtf(q / c + eps) : 1.f / (sqrtf(q) + eps);
}

KERNEL by_length(int kind, Long places, int c, int s, float eps, const float *x, float *y)
{
    const Long place = blockIdx.x * (Long)PLACES + threadIdx.x % PLACES;
    const int share = threadIdx.x / PLACES;
    const Long at = place / s * c * s + place % s;
    float q = 0.f;
    if (place < places)
        for (int k = share; k < c; k += SHARES) q += x[at + (Long)k * s] * x[at + (Long)k * s];
    q = over_shares(q);
    const float f = length_factor(kind, q, (float)c, eps);
    if (place < places)
        for (int k = share; k < c; k += SHARES) y[at + (Long)k * s] = x[at + (Long)k * s] * f;
}

KERNEL by_length_back(int kind, Long places, int c, int s, float eps, const float *x, const float *g, float *dx)
{
    const Long place = blockIdx.x * (Long)PLACES + threadIdx.x % PLACES;
    const int share = threadIdx.x / PLACES;
    const Long at = place / s * c * s + place % s;
    float q = 0.f, dot = 0.f;
    if (place < places)
        for (int k = share; k < c; k += SHARES) {
            const float v = x[at + (Long)k * s];
            q += v * v;
            dot += v * g[at + (Long)k * s];
        }
    q = over_shares(q);
    dot = over_shares(dot);
    float f = length_factor(kind, q, (float)c, eps), slope;
    if (kind == 0) {
        slope = -(f * f * f) / (float)c;
    } else {
        const float length = sqrtf(q);
        // An all-zero vector gets no gradient.
        slope = length == 0.f ? 0.f : -(f * f) / length;
        f = length == 0.f ? 0.f : f;
    }
    if (place < places)
        for (int k = share; k < c; k += SHARES)
            dx[at + (Long)k * s] = g[at + (Long)k * s] * f + x[at + (Long)k * s] * (dot * slope);
}

// ---- pooling; planes of h x w, results of oh x ow. The plane of a block is one of the array that the kernel writes.

KERNEL avg_pool2(int h, int w, int oh, int ow, int chunks, const float *x, float *y)
{
    PLANE(p, oh * ow, chunks)
    x += p * h * w;
    EACH_OF_PLANE(i)
    {
        const float *v = x + (i / ow * 2) * w + i % ow * 2;
        y[p * oh * ow + i] = (v[0] + v[1] + v[w] + v[w + 1]) * 0.25f;
    }
}

KERNEL avg_pool2_back(int h, int w, int oh, int ow, int chunks, const float *g, float *dx)
{
    PLANE(p, h * w, chunks)
    EACH_OF_PLANE(i)
    {
        const int row = i / w / 2, col = i % w / 2;
        dx[p * h * w + i] = row < oh && col < ow ? g[p * oh * ow + row * ow + col] * 0.25f : 0.f;
    }
}

__device__ float larger(float a, float b)
{
    return b > a || isnan(b) ? b : a;
}

KERNEL max_pool2(int h, int w, int oh, int ow, int chunks, const float *x, float *y)
{
    PLANE(p, oh * ow, chunks)
    x += p * h * w;
    EACH_OF_PLANE(i)
    {
        const float *v = x + (i / ow * 2) * w + i % ow * 2;
        y[p * oh * ow + i] = larger(larger(v[0], v[1]), larger(v[w], v[w + 1]));
    }
}

// The gradient goes to the first place of the window, in reading order, that holds the maximum.
KERNEL max_pool2_back(int h, int w, int oh, int ow, int chunks, const float *x, const float *y, const float *g, float *dx)
{
    PLANE(p, h * w, chunks)
    x += p * h * w;
    EACH_OF_PLANE(i)
    {
        const int row = i / w, col = i % w;
        float d = 0.f;
        if (row / 2 < oh && col / 2 < ow) {
            const Long window = p * oh * ow + row / 2 * ow + col / 2;
            const float *v = x + row / 2 * 2 * w + col / 2 * 2;
            const float top = y[window];
            const int own = row % 2 * 2 + col % 2;
            int winner = 3;
            for (int k = 2; k >= 0; k--) {
                const float u = v[k / 2 * w + k % 2];
                if (u == top || isnan(u)) winner = k;
            }
            d = winner == own ? g[window] : 0.f;
        }
        dx[p * h * w + i] = d;
    }
}

KERNEL upsample2(int h, int w, int chunks, const float *x, float *y)
{
    PLANE(p, 4 * h * w, chunks)
    EACH_OF_PLANE(i) y[p * 4 * h * w + i] = x[p * h * w + i / (2 * w) / 2 * w + i % (2 * w) / 2];
}

KERNEL upsample2_back(int h, int w, int chunks, const float *g, float *dx)
{
    PLANE(p, h * w, chunks)
    EACH_OF_PLANE(i)
    {
        const float *v = g + p * 4 * h * w + (i / w * 2) * 2 * w + i % w * 2;
        dx[p * h * w + i] = v[0] + v[1] + v[2 * w] + v[2 * w + 1];
    }
}

// ---- separable filters: insert up - 1 zeros after each sample, pad in front, correlate with taps (x) taps, keep every down-th

// The first tap that reads a sample, and that sample, for output o.
__device__ void first_tap(int o, int up, int down, int pad, int *tap, int *sample)
{
    const int base = o * down - pad;
    *tap = base < 0 ? -base : (up - base % up) % up;
    *sample = base < 0 ? 0 : (base + *tap) / up;
}

KERNEL filter(int h, int w, int oh, int ow, int taps, int up, int down, int pad, float gain, int chunks, const float *kernel, const float *x,
              float *y)
{
    PLANE(p, oh * ow, chunks)
    x += p * h * w;
    EACH_OF_PLANE(i)
    {
        int ty, tx, iy, ix;
        first_tap(i / ow, up, down, pad, &ty, &iy);
        first_tap(i % ow, up, down, pad, &tx, &ix);
        float sum = 0.f;
        for (int t = ty, v = iy; t < taps && v < h; t += up, v++) {
            float line = 0.f;
            for (int s = tx, u = ix; s < taps && u < w; s += up, u++) line += kernel[s] * x[v * w + u];
            sum += kernel[t] * line;
        }
        y[p * oh * ow + i] = sum * gain;
    }
}

KERNEL filter_back(int h, int w, int oh, int ow, int taps, int up, int down, int pad, float gain, int chunks, const float *kernel,
                   const float *g, float *dx)
{
    PLANE(p, h * w, chunks)
    g += p * oh * ow;
    EACH_OF_PLANE(i)
    {
        const int sy = i / w * up + pad, sx = i % w * up + pad;
        float sum = 0.f;
        for (int t = sy % down, v = sy / down; t < taps && v >= 0; t += down, v--) {
            if (v >= oh) continue;
            float line = 0.f;
            for (int s = sx % down, u = sx / down; s < taps && u >= 0; s += down, u--)
                if (u < ow) line += kernel[s] * g[v * ow + u];
            sum += kernel[t] * line;
        }
        dx[p * h * w + i] = sum * gain;
    }
}

// ---- SSIM

KERNEL ssim_products(Long n, const float *a, const float *b, float *out)
{
    EACH(i, n)
    {
        out[i] = b[i];
        out[n + i] = a[i] * a[i] + b[i] * b[i];
        out[2 * n + i] = a[i] * b[i];
    }
}

// The gradient of `own`, which is b (of_b = 1) or a.
KERNEL ssim_products_back(Long n, int of_b, const float *own, const float *other, const float *g, float *dx)
{
    EACH(i, n) dx[i] = (of_b ? g[i] : 0.f) + 2.f * own[i] * g[n + i] + other[i] * g[2 * n + i];
}

// The value at one place, and its derivatives by mean_a, mean_b, the mean square and the mean product.
__device__ float ssim_place(float ma, float mb, float q, float p, float c1, float c2, float *d)
{
    const float lengths = ma * ma + mb * mb;
    const float l_bottom = lengths + c1, s_bottom = q - lengths + c2;
    const float l = (2.f * ma * mb + c1) / l_bottom, s = (2.f * (p - ma * mb) + c2) / s_bottom;
    d[0] = s * (2.f * mb - l * 2.f * ma) / l_bottom + l * (s * 2.f * ma - 2.f * mb) / s_bottom;
    d[1] = s * (2.f * ma - l * 2.f * mb) / l_bottom + l * (s * 2.f * mb - 2.f * ma) / s_bottom;
    d[2] = -(l * s / s_bottom);
    d[3] = l * 2.f / s_bottom;
    return l * s;
}

KERNEL ssim_map(Long n, float c1, float c2, const float *a, const float *means, float *out)
{
    float d[4];
    EACH(i, n) out[i] = ssim_place(a[i], means[i], means[n + i], means[2 * n + i], c1, c2, d);
}

// da (null: not wanted) and dm [3, n] (null: not wanted).
KERNEL ssim_map_back(Long n, float c1, float c2, const float *a, const float *means, const float *g, float *da, float *dm)
{
    float d[4];
    EACH(i, n)
    {
        ssim_place(a[i], means[i], means[n + i], means[2 * n + i], c1, c2, d);
        if (da) da[i] = g[i] * d[0];
        if (dm)
            for (int k = 0; k < 3; k++) dm[k * n + i] = g[i] * d[k + 1];
    }
}

// ---- matrices and convolution

// y [rows, cols] += bias [cols]
KERNEL add_row(Long n, int cols, const float *bias, float *y)
{
    EACH(i, n) y[i] += bias[i % cols];
}

// The sum of every column of g [rows, cols].
KERNEL column_sums(int rows, int cols, const float *g, float *out)
{
    EACH(i, cols)
    {
        float sum = 0.f;
        for (int r = 0; r < rows; r++) sum += g[(Long)r * cols + i];
        out[i] = sum;
    }
}

// One image x [ci, h, w] as columns [ci * kh * kw, oh * ow].
KERNEL unfold(Long n, int h, int w, int kh, int kw, int oh, int ow, int stride, int pad, const float *x, float *columns)
{
    EACH(i, n)
    {
        const int place = (int)(i % (oh * ow)), row = (int)(i / (oh * ow));
        const int y = place / ow * stride + row / kw % kh - pad, u = place % ow * stride + row % kw - pad;
        const int channel = row / (kh * kw);
        columns[i] = y >= 0 && y < h && u >= 0 && u < w ? x[((Long)channel * h + y) * w + u] : 0.f;
    }
}

// The transpose of `unfold`: every pixel gathers its columns.
KERNEL fold(Long n, int h, int w, int kh, int kw, int oh, int ow, int stride, int pad, const float *columns, float *x)
{
    EACH(i, n)
    {
        const int u = (int)(i % w), y = (int)(i / w % h);
        const Long channel = i / w / h;
        float sum = 0.f;
        for (int ky = 0; ky < kh; ky++) {
            const int oy = y + pad - ky;
            if (oy < 0 || oy % stride || oy / stride >= oh) continue;
            for (int kx = 0; kx < kw; kx++) {
                const int ox = u + pad - kx;
                if (ox < 0 || ox % stride || ox / stride >= ow) continue;
                sum += columns[((channel * kh + ky) * kw + kx) * oh * ow + oy / stride * ow + ox / stride];
            }
        }
        x[i] = sum;
    }
}

// w [pairs, kh, kw] spread to [pairs, kh + 1, kw + 1]: the sum of its four shifts, times `scale`.
KERNEL spread(Long n, int kh, int kw, float scale, const float *w, float *out)
{
    EACH(i, n)
    {
        const int u = (int)(i % (kw + 1)), y = (int)(i / (kw + 1) % (kh + 1));
        const float *from = w + i / ((kw + 1) * (kh + 1)) * kh * kw;
        float sum = 0.f;
        for (int ky = y - 1; ky <= y; ky++)
            for (int kx = u - 1; kx <= u; kx++)
                if (ky >= 0 && ky < kh && kx >= 0 && kx < kw) sum += from[ky * kw + kx];
        out[i] = sum * scale;
    }
}

KERNEL spread_back(Long n, int kh, int kw, float scale, const float *g, float *dw)
{
    EACH(i, n)
    {
        const float *from = g + i / (kh * kw) * ((kh + 1) * (kw + 1)) + i / kw % kh * (kw + 1) + i % kw;
        dw[i] = (from[0] + from[1] + from[kw + 1] + from[kw + 2]) * scale;
    }
}

// ---- optimizer, in place

// acc = decay * acc + weight * (g^2 if square, else g)
KERNEL accumulate(Long n, float decay, float weight, int square, const float *g, float *acc)
{
    EACH(i, n) acc[i] = decay * acc[i] + weight * (square ? g[i] * g[i] : g[i]);
}

// p -= scale * d / (sqrt(v) * root_scale + eps)
KERNEL optimizer_step(Long n, float scale, float root_scale, float eps, const float *v, const float *d, float *p)
{
    EACH(i, n) p[i] -= scale * d[i] / (sqrtf(v[i]) * root_scale + eps);
}

// a += weight * (b - a)
KERNEL towards(Long n, float weight, const float *b, float *a)
{
    EACH(i, n) a[i] += weight * (b[i] - a[i]);
}
