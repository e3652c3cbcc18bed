// husk: differential tests as text, with what the host made of them
#include "vector.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "base/bits.h"

namespace husk::differential {

namespace {

using namespace cpu;

/// The state before or after a test, as one thing to list.
struct State {
  std::uint64_t gpr[16], rflags, fs_base, gs_base;
  std::uint16_t es, ds, fs, gs;
  FpImage fp;
};

State before(const Test& test) {
  const Request& r = test.request;
  State s{};
  std::memcpy(s.gpr, r.gpr, sizeof s.gpr);
  s.rflags = r.rflags;
  s.fs_base = r.fs_base;
  s.gs_base = r.gs_base;
  s.es = r.es, s.ds = r.ds, s.fs = r.fs, s.gs = r.gs;
  s.fp = r.fp;
  return s;
}
State after(const Outcome& outcome) {
  const Answer& r = outcome.state;
  State s{};
  std::memcpy(s.gpr, r.gpr, sizeof s.gpr);
  s.rflags = r.rflags;
  s.fs_base = r.fs_base;
  s.gs_base = r.gs_base;
  s.es = r.es, s.ds = r.ds, s.fs = r.fs, s.gs = r.gs;
  s.fp = r.fp;
  return s;
}

constexpr const char* kGprNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/// Calls each(name, pointer, bytes) for every field of a state.
template <class StateRef, class Each>
void for_each_field(StateRef& s, Each&& each) {
  for (unsigned i = 0; i < 16; ++i) each(kGprNames[i], reinterpret_cast<std::uint8_t*>(&s.gpr[i]), 8u);
  each("rflags", reinterpret_cast<std::uint8_t*>(&s.rflags), 8u);
  each("fs_base", reinterpret_cast<std::uint8_t*>(&s.fs_base), 8u);
  each("gs_base", reinterpret_cast<std::uint8_t*>(&s.gs_base), 8u);
  each("es", reinterpret_cast<std::uint8_t*>(&s.es), 2u);
  each("ds", reinterpret_cast<std::uint8_t*>(&s.ds), 2u);
  each("fs", reinterpret_cast<std::uint8_t*>(&s.fs), 2u);
  each("gs", reinterpret_cast<std::uint8_t*>(&s.gs), 2u);
  std::uint8_t* const p = s.fp.legacy;
  each("fcw", p, 2u);
  each("fsw", p + 2, 2u);
  each("ftw", p + 4, 1u);
  each("fop", p + 6, 2u);
  each("fip", p + 8, 8u);
  each("fdp", p + 16, 8u);
  each("mxcsr", p + 24, 4u);
  static constexpr const char* kSt[8] = {"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"};
  for (unsigned i = 0; i < 8; ++i) each(kSt[i], p + 32 + 16 * i, 10u);
  for (unsigned i = 0; i < 16; ++i) {
    each(fmt::format("xmm{}", i).c_str(), p + 160 + 16 * i, 16u);
    each(fmt::format("high{}", i).c_str(), s.fp.ymm_high[i], 16u);
  }
}

/// Most significant digit first, as numbers are written.
std::string number(const std::uint8_t* bytes, unsigned size) {
  std::string text;
  for (unsigned i = size; i-- > 0;)
    if (bytes[i] != 0 || i == 0 || !text.empty())
      text += text.empty() ? fmt::format("{:x}", bytes[i]) : fmt::format("{:02x}", bytes[i]);
  return text;
}
bool parse_number(std::string_view text, std::uint8_t* bytes, unsigned size) {
  std::memset(bytes, 0, size);
  unsigned nibble = 0;
  for (std::size_t i = text.size(); i-- > 0; ++nibble) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0 || nibble / 2 >= size) return false;
    bytes[nibble / 2] = static_cast<std::uint8_t>(bytes[nibble / 2] | digit << (nibble % 2 * 4));
  }
  return nibble > 0;
}
std::string byte_string(const std::uint8_t* bytes, unsigned size) {
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}
bool parse_bytes(std::string_view text, std::uint8_t* bytes, unsigned capacity, unsigned& size) {
  size = static_cast<unsigned>(text.size() / 2);
  if (text.size() % 2 != 0 || size > capacity) return false;
  for (unsigned i = 0; i < size; ++i)
    if (!parse_number(text.substr(2 * i, 2), bytes + i, 1)) return false;
  return true;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const std::size_t end = std::min(line.find(' '), line.size());
    if (end > 0) words.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return words;
}

/// Reads one vector line by line.
class Reader {
 public:
  /// False: the line makes no sense.
  bool take(std::string_view line) {
    const std::vector<std::string_view> words = words_of(line);
    if (words[0] == "form") return true;  // for people
    started_ = true;
    if (words.size() < 2) return false;
    std::uint64_t value = 0;
    const bool numeric = parse_number(words[1], reinterpret_cast<std::uint8_t*>(&value), 8);
    if (words[0] == "mode") {
      if (!numeric) return false;
      test_.mode = value == 0x64 ? Mode::long64 : Mode::compat32;
      test_.request.cs = test_.mode == Mode::long64 ? kUserCs64 : kUserCs32;
      test_.request.ss = kUserDs;
      return value == 0x64 || value == 0x32;
    }
    if (words[0] == "rip") {
      test_.request.rip = value;
      test_.high_code = value >= kHighCode;
      return numeric;
    }
    if (words[0] == "code") {
      unsigned size = 0;
      if (!parse_bytes(words[1], test_.code.data(), 15, size)) return false;
      test_.length = static_cast<std::uint8_t>(size);
      return decode({test_.code.data(), size}, code_size_of(test_.mode), test_.insn) == DecodeStatus::ok &&
             ((test_.form = test_.insn.form), true);
    }
    if (words[0] == "mem") return numeric && words.size() == 3 && take_poke(value, words[2]);
    if (words[0] == "in") return take_fields(words, in_);
    if (words[0] == "out") {
      begin_out();
      return take_fields(words, out_);
    }
    if (words[0] == "next") {
      next_ = value;
      return numeric;
    }
    if (words[0] == "changed") return numeric && words.size() == 3 && take_chunk(value, words[2]);
    if (words[0] == "changes") {
      host_.state.chunk_count = static_cast<std::uint16_t>(value);
      return numeric;
    }
    if (words[0] == "fault" && words.size() >= 4) {
      host_.state.vector = static_cast<std::uint32_t>(value);
      host_.fetch_fault = words.size() == 5;
      return numeric && parse_number(words[2], reinterpret_cast<std::uint8_t*>(&host_.state.error), 4) &&
             parse_number(words[3], reinterpret_cast<std::uint8_t*>(&host_.state.cr2), 8);
    }
    return false;
  }
  bool started() const { return started_; }
  Vector finish() {
    begin_out();
    Request& r = test_.request;
    std::memcpy(r.gpr, in_.gpr, sizeof r.gpr);
    r.rsp = r.gpr[kRsp];
    r.rflags = in_.rflags;
    r.fs_base = in_.fs_base;
    r.gs_base = in_.gs_base;
    r.es = in_.es, r.ds = in_.ds, r.fs = in_.fs, r.gs = in_.gs;
    r.fp = in_.fp;
    r.fp.xstate_bv = 7;
    Answer& h = host_.state;
    std::memcpy(h.gpr, out_.gpr, sizeof h.gpr);
    h.rip = next_ ? next_ : r.rip + test_.length;
    h.rflags = out_.rflags;
    h.fs_base = out_.fs_base;
    h.gs_base = out_.gs_base;
    h.es = out_.es, h.ds = out_.ds, h.fs = out_.fs, h.gs = out_.gs;
    h.cs = static_cast<std::uint16_t>(r.cs);
    h.ss = kUserDs;
    h.fp = out_.fp;
    return {test_, host_};
  }

 private:
  void begin_out() {
    if (out_begun_) return;
    out_begun_ = true;
    out_ = in_;
  }
  static bool take_fields(const std::vector<std::string_view>& words, State& state) {
    for (std::size_t i = 1; i < words.size(); ++i) {
      const std::size_t equals = words[i].find('=');
      if (equals == std::string_view::npos) return false;
      const std::string_view name = words[i].substr(0, equals), value = words[i].substr(equals + 1);
      bool found = false;
      for_each_field(state, [&](const char* field, std::uint8_t* bytes, unsigned size) {
        if (name == field) found = parse_number(value, bytes, size);
      });
      if (!found) return false;
    }
    return true;
  }
  bool take_poke(std::uint64_t offset, std::string_view text) {
    Request& r = test_.request;
    if (r.poke_count == kMaxPokes || offset >= kDataSize) return false;
    unsigned size = 0;
    if (!parse_bytes(text, r.poke_bytes + poked_, kPokeBytes - poked_, size) || offset + size > kDataSize) return false;
    r.pokes[r.poke_count++] = {static_cast<std::uint16_t>(offset), static_cast<std::uint16_t>(size),
                               static_cast<std::uint16_t>(poked_)};
    poked_ += size;
    return true;
  }
  bool take_chunk(std::uint64_t offset, std::string_view text) {
    Answer& h = host_.state;
    if (h.chunk_count >= kMaxChunks || offset >= kWritableSize) return false;
    Chunk& chunk = h.chunks[h.chunk_count++];
    chunk.offset = static_cast<std::uint32_t>(offset);
    unsigned size = 0;
    return parse_bytes(text, chunk.bytes, 32, size) && size == 32;
  }

  Test test_{};
  Outcome host_ = [] {
    Outcome o{};
    o.state.vector = kNoFault;
    return o;
  }();
  State in_{}, out_{};
  bool out_begun_ = false, started_ = false;
  std::uint64_t next_ = 0;
  unsigned poked_ = 0;
};

}  // namespace

std::string to_text(const Test& test, const Outcome& host) {
  const Request& r = test.request;
  std::string text =
      fmt::format("form {}\nmode {}\nrip {:x}\ncode {}\n", form_name(test.form), test.mode == Mode::long64 ? 64 : 32,
                  r.rip, byte_string(test.code.data(), test.length));
  State in = before(test), out = after(host);
  std::string line = "in";
  const auto add = [&](std::string_view head, std::string_view word) {
    if (line.size() + word.size() > 118) {
      text += line + "\n";
      line = head;
    }
    line += ' ';
    line += word;
  };
  for_each_field(in, [&](const char* name, const std::uint8_t* bytes, unsigned size) {
    for (unsigned i = 0; i < size; ++i)
      if (bytes[i] != 0) return add("in", fmt::format("{}={}", name, number(bytes, size)));
  });
  text += line + "\n";
  for (unsigned i = 0; i < r.poke_count; ++i)
    text += fmt::format("mem {:x} {}\n", r.pokes[i].offset,
                        byte_string(r.poke_bytes + r.pokes[i].source, r.pokes[i].length));
  const Answer& h = host.state;
  if (h.vector != kNoFault)
    text += fmt::format("fault {:x} {:x} {:x}{}\n", h.vector, h.error, h.cr2, host.fetch_fault ? " fetch" : "");
  if (h.rip != r.rip + test.length) text += fmt::format("next {:x}\n", h.rip);
  std::vector<std::string> old;
  for_each_field(in,
                 [&](const char*, const std::uint8_t* bytes, unsigned size) { old.push_back(number(bytes, size)); });
  line = "out";
  std::size_t index = 0;
  for_each_field(out, [&](const char* name, const std::uint8_t* bytes, unsigned size) {
    const std::string value = number(bytes, size);
    if (value != old[index++]) add("out", fmt::format("{}={}", name, value));
  });
  if (line != "out") text += line + "\n";
  const unsigned listed = std::min<unsigned>(h.chunk_count, kMaxChunks);
  for (unsigned i = 0; i < listed; ++i)
    text += fmt::format("changed {:x} {}\n", h.chunks[i].offset, byte_string(h.chunks[i].bytes, 32));
  if (h.chunk_count != listed) text += fmt::format("changes {:x}\n", h.chunk_count);
  return text + "\n";
}

Result<std::vector<Vector>> parse_vectors(std::string_view text) {
  std::vector<Vector> vectors;
  Reader reader;
  unsigned number_of_line = 0;
  const auto end_vector = [&] {
    if (reader.started()) vectors.push_back(reader.finish());
    reader = Reader{};
  };
  while (!text.empty()) {
    ++number_of_line;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty())
      end_vector();
    else if (line[0] != '#' && !reader.take(line))
      return fail("line {}: {:?} is no line of a vector", number_of_line, line);
  }
  end_vector();
  return vectors;
}

}  // namespace husk::differential
