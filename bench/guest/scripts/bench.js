// husk: the guest benchmark kit: a node.js program: its compiler tiers, garbage collector, strings and typed arrays
const scale = Number(process.argv[2]);

class Node {
  constructor(left, right) {
    this.left = left;
    this.right = right;
  }
}
const tree = (depth) => (depth === 0 ? new Node(null, null) : new Node(tree(depth - 1), tree(depth - 1)));
const count = (node) => (node.left === null ? 1 : 1 + count(node.left) + count(node.right));
let nodes = 0;
for (let i = 0; i < scale / 4; ++i) nodes += count(tree(12));

const words = new Map();
for (let i = 0; i < 2000 * scale; ++i) {
  const word = `w${(i * 7919) % 1009}`;
  words.set(word, (words.get(word) || 0) + 1);
}

const size = 48;
const a = new Float64Array(size * size).map((_, i) => i % 17);
const b = new Float64Array(size * size).map((_, i) => i % 13);
let total = 0;
for (let round = 0; round < scale / 4; ++round) {
  for (let i = 0; i < size; ++i) {
    for (let j = 0; j < size; ++j) {
      let sum = 0;
      for (let k = 0; k < size; ++k) sum += a[i * size + k] * b[k * size + j];
      total += sum;
    }
  }
}

// Functions made at run time: each is parsed, compiled and run.
let made = 0;
for (let i = 0; i < 10 * scale; ++i) made += new Function("x", `let r = x; for (let i = 0; i < 20; ++i) r += ${i} ^ i; return r;`)(i);

const text = JSON.stringify(Array.from({ length: 100 * scale }, (_, i) => ({ id: i, name: `n${i}`, values: [i, i / 2] })));
const parsed = JSON.parse(text);
const matches = text.match(/n\d*7"/g);
console.log(nodes, words.size, total, made, text.length, parsed.length, matches === null ? 0 : matches.length);
