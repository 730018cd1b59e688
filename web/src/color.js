// models.blend_with_photo, and what it takes of color.py.

const clipped = (value) => Math.min(Math.max(value, 0), 1);
const luminance = (data, at) => 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];

/** A stylised picture with as much of the photo as is wanted. */
export function blend(stylized, photo, { keepColors, strength }) {
  if (keepColors === 'none' && strength === 1) return stylized;
  const { width, height } = stylized;
  const data = Float32Array.from(stylized.data);
  if (keepColors === 'luminance') {
    for (let at = 0; at < data.length; at += 3) {
      const change = luminance(data, at) - luminance(photo.data, at);
      for (let c = at; c < at + 3; c++) data[c] = clipped(photo.data[c] + change);
    }
  } else if (keepColors === 'histogram') {
    matchStatistics(data, photo.data);
  }
  if (strength < 1) {
    for (let at = 0; at < data.length; at++) {
      data[at] = strength * data[at] + (1 - strength) * photo.data[at];
    }
  }
  return { width, height, data };
}

/** Gives colours the mean and covariance of others: color.match_statistics. */
function matchStatistics(data, reference) {
  const own = statistics(data);
  const wanted = statistics(reference);
  const transform = product(power(own.covariance, -0.5), power(wanted.covariance, 0.5));
  for (let at = 0; at < data.length; at += 3) {
    const centred = [0, 1, 2].map((c) => data[at + c] - own.mean[c]);
    for (let c = 0; c < 3; c++) {
      const mapped = centred.reduce((sum, value, k) => sum + value * transform[k][c], 0);
      data[at + c] = clipped(mapped + wanted.mean[c]);
    }
  }
}

function statistics(data) {
  const count = data.length / 3;
  const mean = [0, 0, 0];
  for (let at = 0; at < data.length; at++) mean[at % 3] += data[at];
  for (let c = 0; c < 3; c++) mean[c] /= count;
  const covariance = [0, 1, 2].map(() => [0, 0, 0]);
  for (let at = 0; at < data.length; at += 3) {
    for (let i = 0; i < 3; i++) {
      const value = data[at + i] - mean[i];
      for (let j = 0; j < 3; j++) covariance[i][j] += value * (data[at + j] - mean[j]);
    }
  }
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) covariance[i][j] = covariance[i][j] / count + (i === j ? 1e-5 : 0);
  }
  return { mean, covariance };
}

const product = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((s, v, k) => s + v * b[k][j], 0)));
const transposed = (a) => a[0].map((_, j) => a.map((row) => row[j]));

/** A power of a symmetric positive 3x3 matrix, by Jacobi's rotations. */
function power(matrix, exponent) {
  let values = matrix;
  let vectors = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  for (let sweep = 0; sweep < 30; sweep++) {
    for (const [p, q] of [[0, 1], [0, 2], [1, 2]]) {
      const angle = 0.5 * Math.atan2(2 * values[p][q], values[q][q] - values[p][p]);
      const turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
      turn[p][p] = turn[q][q] = Math.cos(angle);
      turn[p][q] = Math.sin(angle);
      turn[q][p] = -Math.sin(angle);
      values = product(product(transposed(turn), values), turn);
      vectors = product(vectors, turn);
    }
  }
  const scaled = vectors.map((row) => row.map((value, k) => value * values[k][k] ** exponent));
  return product(scaled, transposed(vectors));
}
