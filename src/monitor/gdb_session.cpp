// husk: the GDB remote serial protocol
#include "monitor/gdb_session.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "monitor/cpu_view.h"
#include "monitor/gdb_registers.h"

namespace husk::monitor {
namespace {

constexpr std::string_view kOk = "OK";
constexpr std::string_view kError = "E01";
constexpr std::string_view kUnsupported = "";

std::string to_hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}
std::optional<std::uint8_t> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<std::uint8_t>(c - 'A' + 10);
  return std::nullopt;
}
std::optional<std::vector<std::uint8_t>> from_hex(std::string_view text) {
  if (text.size() % 2) return std::nullopt;
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const auto high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
    if (!high || !low) return std::nullopt;
    bytes.push_back(static_cast<std::uint8_t>(*high << 4 | *low));
  }
  return bytes;
}
std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}
/// Splits off what stands before `separator`; the rest stays. Without one, all of it.
std::string_view take(std::string_view& text, char separator) {
  const std::size_t at = text.find(separator);
  const std::string_view head = text.substr(0, at);
  text = at == std::string_view::npos ? std::string_view{} : text.substr(at + 1);
  return head;
}
/// "addr,length" with a bound on the length.
struct Range {
  std::uint64_t address, length;
};
std::optional<Range> range(std::string_view text, std::uint64_t most) {
  const auto address = number(take(text, ','));
  const auto length = number(text);
  if (!address || !length || *length > most) return std::nullopt;
  return Range{*address, *length};
}

}  // namespace

void GdbSession::receive(std::span<const std::uint8_t> bytes) {
  buffer_.append(bytes.begin(), bytes.end());
  while (!buffer_.empty()) {
    if (buffer_[0] == '\x03') {
      buffer_.erase(0, 1);
      if (running_) {
        target_.pause();
        stopped({Stop::Why::interrupted, cpu_, 0});
      }
      continue;
    }
    if (buffer_[0] == '-' && !last_reply_.empty()) send_(last_reply_);
    if (buffer_[0] != '$') {
      buffer_.erase(0, 1);
      continue;
    }
    const std::size_t hash = buffer_.find('#');
    if (hash == std::string::npos || hash + 2 >= buffer_.size()) {
      // A packet that never ends is dropped, not collected for ever.
      if (buffer_.size() > 2 * kPacketLimit + 16) buffer_.clear();
      return;
    }
    const std::string body = buffer_.substr(1, hash - 1);
    const auto claimed = from_hex(std::string_view(buffer_).substr(hash + 1, 2));
    buffer_.erase(0, hash + 3);
    std::uint8_t sum = 0;
    for (const char c : body) sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(c));
    if (!claimed || (*claimed)[0] != sum) {
      if (acknowledge_) send_("-");
      continue;
    }
    if (acknowledge_) send_("+");
    packet(body);
  }
}

void GdbSession::packet(std::string_view body) {
  // The machine must be stopped for everything but the interrupt character.
  if (running_) return;
  handle(body);
}

void GdbSession::reply(std::string_view body) {
  std::string escaped;
  for (const char c : body) {
    if (c == '#' || c == '$' || c == '}' || c == '*') {
      escaped += '}';
      escaped += static_cast<char>(c ^ 0x20);
    } else {
      escaped += c;
    }
  }
  std::uint8_t sum = 0;
  for (const char c : escaped) sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(c));
  last_reply_ = fmt::format("${}#{:02x}", escaped, sum);
  send_(last_reply_);
}

std::string GdbSession::stop_reply() const {
  const unsigned thread = stop_.cpu + 1;
  switch (stop_.why) {
    case Stop::Why::interrupted: return fmt::format("T02thread:{:02x};", thread);
    case Stop::Why::breakpoint: return fmt::format("T05thread:{:02x};swbreak:;", thread);
    case Stop::Why::watchpoint: return fmt::format("T05thread:{:02x};watch:{:x};", thread, stop_.address);
    case Stop::Why::step: return fmt::format("T05thread:{:02x};", thread);
    case Stop::Why::fault: return fmt::format("T0bthread:{:02x};", thread);
  }
  return "S05";
}

void GdbSession::stopped(const Stop& stop) {
  stop_ = stop;
  cpu_ = stop.cpu;
  if (!std::exchange(running_, false)) return;
  reply(stop_reply());
}

void GdbSession::resume(std::optional<unsigned> step) {
  running_ = true;
  target_.resume(step);
}

void GdbSession::handle(std::string_view body) {
  if (body.empty()) return reply(kUnsupported);
  const std::string_view rest = body.substr(1);
  switch (body[0]) {
    case '?': return reply(stop_reply());
    case 'g': return read_registers();
    case 'G': return write_registers(rest);
    case 'p': return read_register(rest);
    case 'P': return write_register(rest);
    case 'm': return read_memory(rest);
    case 'M': return write_memory(rest, false);
    case 'X': return write_memory(rest, true);
    case 'Z': return breakpoint(true, rest);
    case 'z': return breakpoint(false, rest);
    case 'H': return select_thread(rest);
    case 'T': {
      const auto thread = number(rest);
      return reply(thread && *thread >= 1 && *thread <= target_.cpu_count() ? kOk : kError);
    }
    case 'c':
    case 's': {
      if (const auto address = number(rest)) {
        cpu::CpuState state = target_.state(cpu_);
        state.rip = *address;
        if (!target_.set_state(cpu_, state)) return reply(kError);
      }
      return resume(body[0] == 's' ? std::optional(cpu_) : std::nullopt);
    }
    case 'C': return resume(std::nullopt);
    case 'S': return resume(cpu_);
    case 'D':
      request_ = {};
      (void)target_.set_breakpoints(request_);
      reply(kOk);
      return target_.detach();
    case 'k': return target_.kill();
    case 'q':
    case 'Q': return query(body);
    case 'v':
      if (body == "vCont?") return reply("vCont;c;C;s;S");
      if (body.starts_with("vCont;")) return continue_with(body.substr(6));
      if (body.starts_with("vKill")) {
        reply(kOk);
        return target_.kill();
      }
      return reply(kUnsupported);
    default: return reply(kUnsupported);
  }
}

void GdbSession::continue_with(std::string_view actions) {
  // The first step action that names a thread (or none) wins; everything else continues.
  while (!actions.empty()) {
    std::string_view action = take(actions, ';');
    const std::string_view what = take(action, ':');
    if (what.empty() || (what[0] != 's' && what[0] != 'S')) continue;
    const auto thread = number(action);
    const unsigned cpu =
        thread && *thread >= 1 && *thread <= target_.cpu_count() ? static_cast<unsigned>(*thread - 1) : cpu_;
    return resume(cpu);
  }
  resume(std::nullopt);
}

void GdbSession::query(std::string_view body) {
  if (body.starts_with("qSupported"))
    return reply(fmt::format("PacketSize={:x};qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+",
                             kPacketLimit));
  if (body == "QStartNoAckMode") {
    reply(kOk);
    acknowledge_ = false;
    return;
  }
  if (body.starts_with("qXfer:features:read:")) return transfer(body.substr(20));
  if (body == "qAttached") return reply("1");
  if (body == "qC") return reply(fmt::format("QC{:02x}", cpu_ + 1));
  if (body == "qfThreadInfo") {
    std::string list = "m";
    for (unsigned i = 0; i < target_.cpu_count(); ++i) list += fmt::format("{}{:02x}", i ? "," : "", i + 1);
    return reply(list);
  }
  if (body == "qsThreadInfo") return reply("l");
  if (body.starts_with("qThreadExtraInfo,")) {
    const auto thread = number(body.substr(17));
    if (!thread || *thread < 1 || *thread > target_.cpu_count()) return reply(kError);
    const cpu::CpuState state = target_.state(static_cast<unsigned>(*thread - 1));
    const std::string text =
        fmt::format("CPU#{} [{}]", *thread - 1, state.activity == cpu::Activity::halted ? "halted" : "running");
    return reply(to_hex({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}));
  }
  // QEMU's names for the switch between virtual and physical addresses, which gdb front ends know.
  if (body == "qqemu.PhyMemMode") return reply(physical_ ? "1" : "0");
  if (body.starts_with("Qqemu.PhyMemMode:")) {
    physical_ = body.ends_with('1');
    return reply(kOk);
  }
  if (body.starts_with("qRcmd,")) {
    const auto raw = from_hex(body.substr(6));
    if (!raw) return reply(kError);
    const std::string line(raw->begin(), raw->end());
    std::string text;
    if (line == "physical on" || line == "physical off") {
      physical_ = line == "physical on";
      text = fmt::format("memory addresses are {} now\n", physical_ ? "physical" : "virtual");
    } else if (auto answer = target_.command(line)) {
      text = std::move(*answer);
    } else {
      text = "commands: physical on|off, symbol NAME, registers, reset, power, accelerator [NAME]\n";
    }
    return reply(to_hex({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}));
  }
  reply(kUnsupported);
}

void GdbSession::transfer(std::string_view body) {
  if (take(body, ':') != "target.xml") return reply("E00");
  const auto part = range(body, kPacketLimit);
  if (!part) return reply(kError);
  const std::string xml = gdb_target_description();
  if (part->address >= xml.size()) return reply("l");
  // Escaping may double a byte, so half a packet at most.
  const std::size_t count = std::min<std::size_t>({part->length, kPacketLimit / 2, xml.size() - part->address});
  const bool last = part->address + count == xml.size();
  reply((last ? "l" : "m") + xml.substr(part->address, count));
}

void GdbSession::select_thread(std::string_view arguments) {
  if (arguments.empty()) return reply(kError);
  const std::string_view id = arguments.substr(1);
  if (id == "-1" || id == "0") return reply(kOk);
  const auto thread = number(id);
  if (!thread || *thread < 1 || *thread > target_.cpu_count()) return reply(kError);
  if (arguments[0] == 'g') cpu_ = static_cast<unsigned>(*thread - 1);
  reply(kOk);
}

void GdbSession::read_registers() {
  const cpu::CpuState state = target_.state(cpu_);
  std::string text;
  for (const GdbRegister& r : gdb_registers()) {
    std::array<std::uint8_t, 16> raw{};
    r.get(state, r.argument, raw.data());
    text += to_hex(std::span(raw).first(r.bytes));
  }
  reply(text);
}

void GdbSession::write_registers(std::string_view hex) {
  const auto bytes = from_hex(hex);
  if (!bytes) return reply(kError);
  cpu::CpuState state = target_.state(cpu_);
  std::size_t at = 0;
  for (const GdbRegister& r : gdb_registers()) {
    if (at + r.bytes > bytes->size()) break;
    // Read-only ones are skipped: gdb writes back what it read.
    (void)r.set(state, r.argument, bytes->data() + at);
    at += r.bytes;
  }
  reply(target_.set_state(cpu_, state) ? kOk : kError);
}

void GdbSession::read_register(std::string_view text) {
  const auto index = number(text);
  const auto& table = gdb_registers();
  if (!index || *index >= table.size()) return reply(kError);
  std::array<std::uint8_t, 16> raw{};
  table[*index].get(target_.state(cpu_), table[*index].argument, raw.data());
  reply(to_hex(std::span(raw).first(table[*index].bytes)));
}

void GdbSession::write_register(std::string_view arguments) {
  const auto index = number(take(arguments, '='));
  const auto bytes = from_hex(arguments);
  const auto& table = gdb_registers();
  if (!index || *index >= table.size() || !bytes || bytes->size() != table[*index].bytes) return reply(kError);
  cpu::CpuState state = target_.state(cpu_);
  if (!table[*index].set(state, table[*index].argument, bytes->data())) return reply(kError);
  reply(target_.set_state(cpu_, state) ? kOk : kError);
}

void GdbSession::read_memory(std::string_view arguments) {
  const auto part = range(arguments, kPacketLimit / 2);
  if (!part) return reply(kError);
  std::vector<std::uint8_t> bytes(part->length);
  const cpu::CpuState state = target_.state(cpu_);
  const CpuView view(state, target_.model(), target_.memory());
  const std::size_t got = physical_ ? view.read_physical(part->address, bytes) : view.read(part->address, bytes);
  if (got == 0 && part->length != 0) return reply(kError);
  bytes.resize(got);
  reply(to_hex(bytes));
}

void GdbSession::write_memory(std::string_view arguments, bool binary) {
  const auto part = range(take(arguments, ':'), kPacketLimit);
  if (!part) return reply(kError);
  std::vector<std::uint8_t> bytes;
  if (binary) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i] == '}' && i + 1 < arguments.size())
        bytes.push_back(static_cast<std::uint8_t>(arguments[++i] ^ 0x20));
      else
        bytes.push_back(static_cast<std::uint8_t>(arguments[i]));
    }
  } else if (auto decoded = from_hex(arguments)) {
    bytes = std::move(*decoded);
  }
  if (bytes.size() != part->length) return reply(kError);
  const cpu::CpuState state = target_.state(cpu_);
  CpuView view(state, target_.model(), target_.memory());
  const std::size_t done = physical_ ? view.write_physical(part->address, bytes) : view.write(part->address, bytes);
  reply(done == bytes.size() ? kOk : kError);
}

void GdbSession::breakpoint(bool insert, std::string_view arguments) {
  const auto type = number(take(arguments, ','));
  const auto address = number(take(arguments, ','));
  const auto length = number(take(arguments, ';'));
  if (!type || !address || !length || *type > 4) return reply(kUnsupported);
  if (*type <= 1) {
    std::erase(request_.breakpoints, *address);
    if (insert) request_.breakpoints.push_back(*address);
  } else {
    if (*length == 0 || *length > 4096) return reply(kError);
    const bool read = *type != 2;
    const bool write = *type != 3;
    std::erase_if(request_.watchpoints, [&](const cpu::DebugRequest::Watch& watch) {
      return watch.address == *address && watch.length == *length && watch.read == read && watch.write == write;
    });
    if (insert) request_.watchpoints.push_back({*address, *length, read, write});
  }
  reply(target_.set_breakpoints(request_) ? kOk : kError);
}

}  // namespace husk::monitor
