// numpy.random.default_rng(0).standard_normal(shape, numpy.float32): the same numbers, so that the
// page gives a photo the same noise as the command line does.

// The state and the increment of PCG64 that NumPy makes of the seed 0, in limbs of 16 bits, lowest
// first.
const STATE = limbs(35399562948360463058890781895381311971n);
const INCREMENT = limbs(87136372517582989555478159403783844777n);
const MULTIPLIER = limbs(0x2360ed051fc65da44385df649fccf645n);

function limbs(integer) {
  return Array.from({ length: 8 }, (_, index) =>
    Number((integer >> BigInt(16 * index)) & 0xffffn),
  );
}

// Tables of the ziggurat with 256 layers (Marsaglia & Tsang 2000), for 23 random bits.
const R = 3.6541528853610087963519472518;
const AREA = 0.0049286732339746519;
const BITS = 2 ** 23;
const [INSIDE, WIDTHS, HEIGHTS] = tables();

function tables() {
  const inside = new Uint32Array(256);
  const widths = new Float32Array(256);
  const heights = new Float32Array(256);
  const density = (x) => Math.exp(-0.5 * x * x);
  const base = AREA / density(R);
  inside[0] = Math.round((R / base) * BITS);
  widths[0] = base / BITS;
  widths[255] = R / BITS;
  heights[0] = 1;
  heights[255] = density(R);
  let last = R;
  for (let layer = 254; layer > 0; layer--) {
    const x = Math.sqrt(-2 * Math.log(AREA / last + density(last)));
    inside[layer + 1] = Math.round((x / last) * BITS);
    widths[layer] = x / BITS;
    heights[layer] = density(x);
    last = x;
  }
  return [inside, widths, heights];
}

export class Random {
  #state = Float64Array.from(STATE);
  #next = new Float64Array(8);
  #kept = -1; // The upper half of the last 64 bits; negative if it was used.

  /** 32 random bits. */
  bits() {
    if (this.#kept >= 0) {
      const kept = this.#kept;
      this.#kept = -1;
      return kept;
    }
    const state = this.#state;
    const next = this.#next;
    let carry = 0;
    for (let k = 0; k < 8; k++) {
      let sum = carry + INCREMENT[k];
      for (let i = 0; i <= k; i++) sum += state[i] * MULTIPLIER[k - i];
      next[k] = sum % 65536;
      carry = (sum - next[k]) / 65536;
    }
    this.#state = next;
    this.#next = state;
    let low = ((next[1] ^ next[5]) << 16) | (next[0] ^ next[4]);
    let high = ((next[3] ^ next[7]) << 16) | (next[2] ^ next[6]);
    let turn = next[7] >> 10;
    if (turn & 32) [low, high] = [high, low];
    turn &= 31;
    if (turn) {
      [low, high] = [
        (low >>> turn) | (high << (32 - turn)),
        (high >>> turn) | (low << (32 - turn)),
      ];
    }
    this.#kept = high >>> 0;
    return low >>> 0;
  }

  #uniform() {
    return (this.bits() >>> 8) / 16777216;
  }

  normal() {
    for (;;) {
      const bits = this.bits();
      const layer = bits & 255;
      const place = bits >>> 9;
      const size = Math.fround(place * WIDTHS[layer]);
      const x = bits & 256 ? -size : size;
      if (place < INSIDE[layer]) return x;
      if (layer === 0) {
        for (;;) {
          const beyond = Math.fround(-Math.fround(1 / R) * Math.fround(Math.log1p(-this.#uniform())));
          const other = -Math.fround(Math.log1p(-this.#uniform()));
          if (2 * other > beyond * beyond) {
            const far = Math.fround(Math.fround(R) + beyond);
            return place & 256 ? -far : far;
          }
        }
      }
      const step = Math.fround(HEIGHTS[layer - 1] - HEIGHTS[layer]);
      const height = Math.fround(Math.fround(step * this.#uniform()) + HEIGHTS[layer]);
      if (height < Math.exp(-0.5 * x * x)) return x;
    }
  }

  normals(count) {
    const found = new Float32Array(count);
    for (let index = 0; index < count; index++) found[index] = this.normal();
    return found;
  }
}
