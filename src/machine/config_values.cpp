// husk: parsing the values of options: sizes, times, numbers, addresses
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "base/bits.h"
#include "machine/config.h"

namespace husk::machine {
namespace {

std::unexpected<Error> bad(std::string message, std::string next_step) {
  return std::unexpected(Error{std::move(message), std::move(next_step)});
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& letter : result) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return result;
}

/// A decimal fraction as digits / 10^places, so that no binary rounding gets in.
struct Decimal {
  std::uint64_t digits = 0;
  std::uint64_t scale = 1;
  std::string_view rest;
};
std::optional<Decimal> take_decimal(std::string_view text) {
  Decimal decimal;
  std::size_t at = 0;
  bool fraction = false, any = false;
  for (; at < text.size(); ++at) {
    if (text[at] == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (text[at] < '0' || text[at] > '9') break;
    any = true;
    const auto shifted = checked_mul<std::uint64_t>(decimal.digits, 10);
    const auto next = shifted ? checked_add<std::uint64_t>(*shifted, static_cast<unsigned>(text[at] - '0')) : shifted;
    if (!next) return std::nullopt;
    decimal.digits = *next;
    if (fraction) {
      const auto scale = checked_mul<std::uint64_t>(decimal.scale, 10);
      if (!scale) return std::nullopt;
      decimal.scale = *scale;
    }
  }
  if (!any) return std::nullopt;
  decimal.rest = text.substr(at);
  return decimal;
}
/// digits * unit / scale if that is a whole number of 64 bits.
std::optional<std::uint64_t> exact(const Decimal& decimal, std::uint64_t unit) {
  const auto product = static_cast<unsigned __int128>(decimal.digits) * unit;
  if (product % decimal.scale != 0 || (product / decimal.scale) >> 64) return std::nullopt;
  return static_cast<std::uint64_t>(product / decimal.scale);
}

}  // namespace

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t most) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    base = 16;
    digits.remove_prefix(2);
  } else if (digits.size() > 1 && digits[0] == '0') {
    base = 8;
    digits.remove_prefix(1);
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (digits.empty() || error == std::errc::invalid_argument || end != digits.data() + digits.size())
    return bad(fmt::format("'{}' is not a number", text), "give it in decimal, or in hexadecimal after 0x");
  if (error == std::errc::result_out_of_range || value > most)
    return fail("{} is too large, at most {} ({:#x}) is possible", text, most, most);
  return value;
}

Result<KernelIrqchip> parse_kernel_irqchip(std::string_view text) {
  if (text == "on") return KernelIrqchip::on;
  if (text == "off") return KernelIrqchip::off;
  if (text == "split") return KernelIrqchip::split;
  return std::unexpected(
      Error{fmt::format("'{}' is no place for interrupt controllers", text), "choose on, split or off"});
}

Result<LostTicks> parse_lost_ticks(std::string_view text) {
  if (text == "discard") return LostTicks::discard;
  if (text == "delay") return LostTicks::delay;
  return std::unexpected(Error{fmt::format("'{}' is no policy for lost ticks", text), "choose discard or delay"});
}

Result<bool> parse_bool(std::string_view text) {
  if (text == "on" || text == "yes" || text == "true" || text == "y") return true;
  if (text == "off" || text == "no" || text == "false" || text == "n") return false;
  return fail("'{}' is neither on nor off", text);
}

Result<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit) {
  const auto wrong = [&] {
    return bad(fmt::format("'{}' is not a size", text), "give a number with K, M, G or T after it, such as 512M or 2G");
  };
  const auto decimal = take_decimal(text);
  if (!decimal) return wrong();
  const std::string suffix = lower(decimal->rest);
  if (!suffix.empty()) {
    constexpr std::string_view kLetters = "bkmgt";
    const std::size_t power = kLetters.find(suffix[0]);
    if (power == std::string_view::npos) return wrong();
    const std::string_view tail = std::string_view(suffix).substr(1);
    if (!(tail.empty() || (power > 0 && (tail == "b" || tail == "ib")))) return wrong();
    unit = std::uint64_t{1} << (10 * power);
  }
  const auto size = exact(*decimal, unit);
  if (!size)
    return bad(fmt::format("'{}' is not a whole number of bytes below 2^64", text), "give a smaller or rounder size");
  return *size;
}

Result<std::uint64_t> parse_duration(std::string_view text) {
  const auto decimal = take_decimal(text);
  std::uint64_t unit = 0;
  if (decimal) {
    if (decimal->rest.empty() || decimal->rest == "s")
      unit = 1'000'000'000;
    else if (decimal->rest == "ms")
      unit = 1'000'000;
    else if (decimal->rest == "m")
      unit = 60'000'000'000;
    else if (decimal->rest == "h")
      unit = 3'600'000'000'000;
  }
  if (unit == 0)
    return bad(fmt::format("'{}' is not a time", text), "give seconds, or a number with ms, s, m or h after it");
  const auto time = exact(*decimal, unit);
  // A century: beyond that, deadlines could wrap.
  if (!time || *time == 0 || *time > 3'153'600'000ull * 1'000'000'000ull)
    return fail("'{}' is outside 1 ns to 100 years", text);
  return *time;
}

Result<host::TcpAddress> parse_tcp(std::string_view text) {
  host::TcpAddress address;
  std::size_t colon;
  if (text.starts_with('[')) {
    const std::size_t close = text.find("]:");
    if (close == std::string_view::npos) return bad(fmt::format("'{}' lacks ']:PORT'", text), "write [ADDRESS]:PORT");
    address.host = text.substr(1, close - 1);
    colon = close + 1;
  } else {
    colon = text.rfind(':');
    if (colon == std::string_view::npos) return bad(fmt::format("'{}' lacks a port", text), "write HOST:PORT");
    address.host = text.substr(0, colon);
    if (address.host.find(':') != std::string::npos)
      return bad(fmt::format("'{}' is ambiguous", text), "write an IPv6 address in brackets: [ADDRESS]:PORT");
  }
  // getaddrinfo would take it, and anything in it, for a name.
  if (address.host.find('\0') != std::string::npos || address.host.size() > 255)
    return fail("'{}' is not a host name", address.host.substr(0, 80));
  const auto port = parse_number(text.substr(colon + 1), 65535);
  if (!port) return bad(fmt::format("'{}' is not a TCP port", text.substr(colon + 1)), "give a number up to 65535");
  address.port = static_cast<std::uint16_t>(*port);
  return address;
}

Result<host::SocketAddress> parse_gdb(std::string_view text) {
  if (text.starts_with("unix:")) {
    if (text.size() == 5) return bad("the unix socket has no path", "write unix:PATH");
    return host::UnixAddress{std::string(text.substr(5))};
  }
  const std::string_view rest = text.starts_with("tcp:") ? text.substr(4) : text;
  const std::string with_colon = rest.find(':') == std::string_view::npos ? ":" + std::string(rest) : std::string(rest);
  host::TcpAddress address = HUSK_TRY(parse_tcp(with_colon));
  if (address.host.empty()) address.host = "127.0.0.1";
  return address;
}

Result<RtcConfig> parse_rtc_base(std::string_view text) {
  RtcConfig rtc;
  if (text == "utc") return rtc;
  if (text == "localtime") {
    rtc.base = RtcConfig::Base::local_time;
    return rtc;
  }
  std::tm date{};
  const std::string copy(text);
  const char* end = ::strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &date);
  if (!end || *end) {
    date = {};
    end = ::strptime(copy.c_str(), "%Y-%m-%d", &date);
  }
  if (!end || *end || copy.size() != std::string_view(copy.c_str()).size())
    return bad(fmt::format("'{}' is not a date", text), "give utc, localtime, 2006-06-17 or 2006-06-17T16:01:21");
  rtc.base = RtcConfig::Base::date;
  rtc.date_s = ::timegm(&date);
  // What a PC's clock can show: two digits of the year and two of the century.
  if (rtc.date_s < 0 || date.tm_year + 1900 > 9999) return fail("the year of '{}' is outside 1970 to 9999", text);
  // The clock counts nanoseconds since 1970 in 63 bits.
  if (rtc.date_s > 9'000'000'000) return fail("the date '{}' is after the year 2255", text);
  return rtc;
}

std::optional<std::int64_t> wall_clock_base(const RtcConfig& rtc, std::int64_t now_s, std::int64_t local_offset_s) {
  constexpr std::int64_t kNs = 1'000'000'000;
  switch (rtc.base) {
    case RtcConfig::Base::date: return rtc.date_s * kNs;
    case RtcConfig::Base::local_time: return (now_s + local_offset_s) * kNs;
    case RtcConfig::Base::utc: break;
  }
  if (rtc.clock == RtcConfig::Clock::vm) return now_s * kNs;
  return std::nullopt;
}

Result<TraceSet> parse_trace(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, TraceCategory>, 8> kNames = {{
      {"exceptions", TraceCategory::exceptions},
      {"interrupts", TraceCategory::interrupts},
      {"io", TraceCategory::io},
      {"msr", TraceCategory::msr},
      {"mmio", TraceCategory::mmio},
      {"exec", TraceCategory::exec},
      {"in_asm", TraceCategory::in_asm},
      {"out_asm", TraceCategory::out_asm},
  }};
  TraceSet set = 0;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const auto found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& one) { return one.first == item; });
    if (found != kNames.end()) {
      set |= static_cast<TraceSet>(found->second);
    } else if (item == "all") {
      for (const auto& [name, category] : kNames)
        if (category <= TraceCategory::exec) set |= static_cast<TraceSet>(category);
    } else {
      std::vector<std::string_view> names{"all"};
      for (const auto& one : kNames) names.push_back(one.first);
      return bad(fmt::format("there is no trace category '{}'{}", item, nearest_hint(item, names)),
                 "choose from exceptions, interrupts, io, msr, mmio, exec, in_asm, out_asm, all");
    }
    if (comma == std::string_view::npos) return set;
    text.remove_prefix(comma + 1);
  }
}

Result<TopologyConfig> complete_topology(unsigned count, unsigned sockets, unsigned cores, unsigned threads) {
  const auto part = [](unsigned value) { return value ? value : 1; };
  // Before the division below can lose anything: all of them small.
  for (const unsigned value : {count, sockets, cores, threads})
    if (value > kMostCpus) return fail("{} CPUs are more than the {} that this machine can have", value, kMostCpus);
  TopologyConfig topology{count, sockets, cores, threads};
  if (count == 0) {
    topology = {0, part(sockets), part(cores), part(threads)};
    topology.count = topology.sockets * topology.cores * topology.threads;
  } else if (cores == 0) {
    topology.sockets = part(sockets);
    topology.threads = part(threads);
    topology.cores = count / (topology.sockets * topology.threads);
  } else if (sockets == 0) {
    topology.threads = part(threads);
    topology.sockets = count / (cores * topology.threads);
  } else if (threads == 0) {
    topology.threads = count / (sockets * cores);
  }
  if (topology.sockets * topology.cores * topology.threads != topology.count || topology.count == 0)
    return bad(fmt::format("{} CPUs are not {} sockets of {} cores of {} threads", topology.count, topology.sockets,
                           topology.cores, topology.threads),
               "leave one of the numbers out, or make the product right");
  if (topology.count > kMostCpus)
    return fail("{} CPUs are more than the {} that this machine can have", topology.count, kMostCpus);
  return topology;
}

std::string edits_text(std::span<const FeatureEdit> edits) {
  std::string text;
  for (const FeatureEdit& edit : edits) {
    if (!text.empty()) text += ',';
    if (edit.value.empty()) text += edit.enabled ? '+' : '-';
    text += edit.name;
    if (!edit.value.empty()) text += "=" + edit.value;
  }
  return text;
}

namespace {
/// Damerau-Levenshtein distance (optimal string alignment), without regard to case.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  const auto at = [](std::string_view text, std::size_t i) {
    return std::tolower(static_cast<unsigned char>(text[i]));
  };
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool same = at(a, i - 1) == at(b, j - 1);
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && at(a, i - 1) == at(b, j - 2) && at(a, i - 2) == at(b, j - 1))
        now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}
}  // namespace

std::optional<std::string> nearest(std::string_view given, std::span<const std::string_view> candidates) {
  if (given.empty() || given.size() > 64) return std::nullopt;
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, given.size() / 2) + 1;
  for (const std::string_view candidate : candidates) {
    // One that merely begins or ends like it is nearer than the letters say: -cpus for -cpu, -mem for -m.
    std::size_t far = distance(given, candidate);
    if (candidate.size() > 2 && (candidate.starts_with(given) || given.starts_with(candidate)))
      far = std::min<std::size_t>(far, 2);
    if (far < best_distance) {
      best_distance = far;
      best = candidate;
    }
  }
  return best;
}

std::string nearest_hint(std::string_view given, std::span<const std::string_view> candidates) {
  const auto found = nearest(given, candidates);
  return found ? fmt::format(" (did you mean '{}'?)", *found) : "";
}

}  // namespace husk::machine
