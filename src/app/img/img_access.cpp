// husk: what the commands of `husk img` share: arguments, images at work, progress, numbers
#include "app/img/img_access.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/bits.h"

namespace husk::app::img {

Result<Arguments> parse_arguments(std::span<const std::string> arguments, const Syntax& syntax) {
  Arguments parsed;
  const auto takes = [](const char* letters, char letter) { return std::strchr(letters, letter) != nullptr; };
  bool only_names = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const auto value = [&](const std::string& option) -> Result<std::string> {
      if (i + 1 >= arguments.size()) return fail("option '{}' wants a value", option);
      return arguments[++i];
    };
    // "-1G" is a size, for resize.
    if (only_names || word.size() < 2 || word[0] != '-' || (word[1] >= '0' && word[1] <= '9')) {
      parsed.names.push_back(word);
    } else if (word == "--") {
      only_names = true;
    } else if (word.starts_with("--")) {
      const auto equals = word.find('=');
      const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
      bool known = false;
      for (const std::string& entry : syntax.longs) {
        const bool wants_value = entry.ends_with('=');
        const auto colon = entry.find(':');
        const std::string long_name = wants_value ? entry.substr(0, entry.size() - 1) : entry.substr(0, colon);
        if (long_name != name) continue;
        known = true;
        std::string target = colon == std::string::npos ? name : entry.substr(colon + 1);
        const bool has_value = wants_value || (colon != std::string::npos && takes(syntax.values, target[0]));
        if (!has_value && equals != std::string::npos) return fail("option '--{}' has no value", name);
        std::string text;
        if (has_value) text = equals != std::string::npos ? word.substr(equals + 1) : HUSK_TRY(value(word));
        parsed.options[target].push_back(text);
        break;
      }
      if (!known)
        return std::unexpected(Error{fmt::format("there is no option '{}'", word), "--help lists those there are"});
    } else {
      for (std::size_t at = 1; at < word.size(); ++at) {
        const char letter = word[at];
        const std::string name(1, letter);
        if (takes(syntax.flags, letter)) {
          parsed.options[name].emplace_back();
        } else if (takes(syntax.values, letter)) {
          parsed.options[name].push_back(at + 1 < word.size() ? word.substr(at + 1) : HUSK_TRY(value("-" + name)));
          break;
        } else {
          return std::unexpected(
              Error{fmt::format("there is no option '-{}'", letter), "--help lists those there are"});
        }
      }
    }
  }
  if (!parsed.has("help") && (parsed.names.size() < syntax.least_names || parsed.names.size() > syntax.most_names)) {
    if (parsed.names.size() < syntax.least_names) return fail("a file name or another argument is missing");
    return fail("'{}' is one argument too many", parsed.names[syntax.most_names]);
  }
  return parsed;
}

Session::Session(std::FILE* out, std::FILE* err)
    : out_(out), err_(err), log_([this](LogLevel level, std::string_view line) {
        if (level <= LogLevel::warning) warn("husk img: {}\n", line);
      }) {}

Result<std::unique_ptr<Session>> Session::create(std::FILE* out, std::FILE* err) {
  std::unique_ptr<Session> session(new Session(out, err));
  session->loop_ = HUSK_TRY(host::EventLoop::create());
  session->context_ = HUSK_TRY(block::Context::create(*session->loop_, session->log_));
  return session;
}

void Session::progress(double part) {
  if (!show_progress || quiet) return;
  const int now = static_cast<int>(std::floor(std::clamp(part, 0.0, 1.0) * 1000));
  if (now == shown_) return;
  shown_ = now;
  print_always("    ({:.2f}/100%)\r", now / 10.0);
  std::fflush(out_);
}

void Session::end_progress() {
  if (!show_progress || quiet) return;
  print_always("    (100.00/100%)\n");
  shown_ = -1;
}

Session::~Session() {
  while (!open_.empty()) static_cast<void>(close(open_.back().get()));
}

Result<block::Node*> Session::open(const block::DiskOptions& options) {
  open_.push_back(HUSK_TRY(block::open_disk(*context_, options)));
  return open_.back().get();
}

Result<block::Node*> Session::open_protocol(const block::DiskOptions& options) {
  open_.push_back(HUSK_TRY(block::open_protocol(*context_, options)));
  return open_.back().get();
}

std::unique_ptr<block::Node> Session::release(block::Node* node) {
  const auto found = std::find_if(open_.begin(), open_.end(), [&](const auto& owned) { return owned.get() == node; });
  if (found == open_.end()) return nullptr;
  std::unique_ptr<block::Node> owned = std::move(*found);
  open_.erase(found);
  return owned;
}

Status Session::close(block::Node* node) {
  const std::unique_ptr<block::Node> owned = release(node);
  return block::close_node(*context_, *owned);
}

namespace {
Status request(Session& session, block::Node& node, core::BlockOp op, std::uint64_t offset, std::uint64_t length,
               std::span<std::uint8_t> bytes, std::uint32_t flags, const char* verb) {
  const core::BlockSpan span = bytes;
  const int error = session.context().wait([&](core::BlockCompletion done) {
    node.submit({.op = op,
                 .flags = flags,
                 .offset = offset,
                 .length = length,
                 .spans = bytes.empty() ? std::span<const core::BlockSpan>{} : std::span(&span, 1),
                 .completion = std::move(done)});
  });
  if (error != 0)
    return fail_errno(error, fmt::format("cannot {} {} bytes at {} of '{}'", verb, length, offset, node.name()));
  return {};
}
}  // namespace

Status Session::read(block::Node& node, std::uint64_t offset, std::span<std::uint8_t> to) {
  return request(*this, node, core::BlockOp::read, offset, to.size(), to, 0, "read");
}
Status Session::write(block::Node& node, std::uint64_t offset, std::span<const std::uint8_t> from,
                      std::uint32_t flags) {
  const std::span<std::uint8_t> bytes(const_cast<std::uint8_t*>(from.data()), from.size());  // a write only reads it
  return request(*this, node, core::BlockOp::write, offset, from.size(), bytes, flags, "write");
}
Status Session::zero(block::Node& node, std::uint64_t offset, std::uint64_t length, std::uint32_t flags) {
  return request(*this, node, core::BlockOp::write_zeroes, offset, length, {}, flags, "clear");
}
Status Session::flush(block::Node& node) { return request(*this, node, core::BlockOp::flush, 0, 0, {}, 0, "flush"); }

Result<block::Extent> Session::status(block::Node& node, std::uint64_t offset, std::uint64_t length) {
  block::Extent extent;
  const int error = context_->wait([&](core::BlockCompletion done) {
    node.status(offset, length, [&extent, done = std::move(done)](int result, block::Extent found) mutable {
      extent = found;
      done(result);
    });
  });
  if (error != 0) return fail_errno(error, fmt::format("cannot tell what '{}' has at {}", node.name(), offset));
  return extent;
}

Status Session::resize(block::Node& node, std::uint64_t size, block::Preallocation preallocation) {
  const int error =
      context_->wait([&](core::BlockCompletion done) { node.resize_to(size, preallocation, std::move(done)); });
  if (error != 0) return fail_errno(error, fmt::format("cannot resize '{}' to {} bytes", node.name(), size));
  return {};
}

Result<Origin> find_origin(Session& session, block::Node& top, std::uint64_t offset, std::uint64_t length,
                           int most_depth) {
  Origin origin;
  block::Node* node = &top;
  for (int depth = 0;; ++depth) {
    if (offset >= node->info().size) {
      // A shorter backing: zeroes that no layer holds. They count as the layer's above it.
      if (depth == 0) origin.layer = node;
      origin.extent = {.length = length, .present = false, .zero = true};
      return origin;
    }
    origin.layer = node;
    origin.depth = depth;
    // Beyond the end of this layer another answer holds.
    origin.extent = HUSK_TRY(session.status(*node, offset, std::min(length, node->info().size - offset)));
    length = std::min(length, origin.extent.length);
    node = node->backing();
    if (origin.extent.present || node == nullptr || depth >= most_depth) return origin;
  }
}

block::qcow2::Image* qcow2_of(block::Node& node) { return dynamic_cast<block::qcow2::Image*>(&node); }

Result<std::uint64_t> parse_number(const std::string& text, const std::string& what, std::uint64_t most) {
  std::uint64_t value = 0;
  const bool hex = text.starts_with("0x");
  const char* from = text.data() + (hex ? 2 : 0);
  const auto [end, error] = std::from_chars(from, text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc{} || end != text.data() + text.size() || value > most)
    return fail("{} is '{}'; it must be a number from 0 to {}", what, text, most);
  return value;
}

Result<std::uint64_t> parse_size(const std::string& text, const std::string& what) {
  const auto bad = [&] {
    return std::unexpected(
        Error{fmt::format("{} is '{}'", what, text), "it is a number of bytes, or one with k, M, G, T, P or E"});
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || number < 0) return bad();
  const std::string suffix(end, text.data() + text.size());
  unsigned shift = 0;
  if (!suffix.empty() && suffix != "b" && suffix != "B") {
    static constexpr std::string_view kSuffixes = "kmgtpe";
    const auto at = kSuffixes.find(static_cast<char>(std::tolower(suffix[0])));
    if (at == std::string_view::npos || suffix.size() > 1) return bad();
    shift = static_cast<unsigned>(at + 1) * 10;
  }
  std::uint64_t whole = 0;
  const auto [stop, failed] = std::from_chars(text.data(), end, whole);
  if (failed == std::errc{} && stop == end) {
    if (shift > 0 && whole > (static_cast<std::uint64_t>(INT64_MAX) >> shift))
      return fail("{} of '{}' is too large", what, text);
    if (whole > static_cast<std::uint64_t>(INT64_MAX)) return fail("{} of '{}' is too large", what, text);
    return whole << shift;
  }
  const double bytes = std::ldexp(number, static_cast<int>(shift));
  if (!(bytes < 9.2e18)) return fail("{} of '{}' is too large", what, text);
  return static_cast<std::uint64_t>(bytes);
}

std::string human_size(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // frexp(value / (1000.0/1024.0)) of QEMU: from 1000 on the next unit.
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  // "%0.3g"
  std::string text = fmt::format("{:.3g}", value);
  return fmt::format("{} {}", text, kUnits[unit]);
}

Result<std::map<std::string, std::string>> parse_pairs(const std::vector<std::string>& lists) {
  std::map<std::string, std::string> pairs;
  for (const std::string& list : lists) {
    std::string item;
    const auto take = [&]() -> Status {
      if (item.empty()) return {};
      const auto equals = item.find('=');
      if (equals == 0) return fail("'{}' has no name before its '='", item);
      // A bare name is a switch.
      pairs[item.substr(0, equals)] = equals == std::string::npos ? "on" : item.substr(equals + 1);
      item.clear();
      return {};
    };
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i] != ',')
        item += list[i];
      else if (i + 1 < list.size() && list[i + 1] == ',')
        item += list[i++];
      else
        HUSK_TRY(take());
    }
    HUSK_TRY(take());
  }
  return pairs;
}

Result<bool> parse_switch(const std::string& text, const std::string& what) {
  if (text == "on" || text == "yes" || text == "true") return true;
  if (text == "off" || text == "no" || text == "false") return false;
  return fail("{} is '{}'; it is on or off", what, text);
}

Result<block::DiskOptions> source_options(const Arguments& arguments, const std::string& name,
                                          const char* format_option) {
  block::DiskOptions options;
  options.path = name;
  options.format = arguments.get(format_option);
  options.read_only = true;
  if (arguments.has("U")) options.locking = block::Locking::force_share;
  if (arguments.has("T")) options.cache = HUSK_TRY(block::parse_cache_mode(arguments.get("T")));
  if (arguments.has("image-opts")) {
    options.path.clear();
    for (const auto& [key, value] : HUSK_TRY(parse_pairs({name}))) {
      if (key == "driver")
        options.format = value == "file" ? "raw" : value;
      else if (key == "file.filename" || key == "filename" || key == "file.file.filename")
        options.path = value;
      else if (key == "file.driver" && (value == "file" || value == "nbd"))
        continue;
      else if (key == "offset")
        options.raw_offset = HUSK_TRY(parse_size(value, key));
      else if (key == "size")
        options.raw_size = HUSK_TRY(parse_size(value, key));
      else
        return fail("--image-opts: husk has no '{}={}'", key, value);
    }
    if (options.path.empty()) return fail("--image-opts '{}' names no file", name);
  }
  return options;
}

bool is_zero(std::span<const std::uint8_t> bytes) {
  return bytes.empty() || (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace husk::app::img
