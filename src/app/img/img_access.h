// husk: what the commands of `husk img` share: arguments, images at work, progress, numbers
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/open.h"
#include "block/qcow2.h"
#include "block/qcow2_surgery.h"

namespace husk::app::img {

/// Options by their short name ("f"), or long name where there is no short one; a list where they repeat.
struct Arguments {
  std::map<std::string, std::vector<std::string>> options;
  std::vector<std::string> names;  ///< what is not an option
  bool has(const std::string& option) const { return options.contains(option); }
  std::string get(const std::string& option, const std::string& otherwise = {}) const {
    const auto found = options.find(option);
    return found == options.end() ? otherwise : found->second.back();
  }
};

/// What a command takes. `flags` and `values`: short letters; `longs`: "name" or "name=" with a value, or "name:x" for
/// another name of option x.
struct Syntax {
  const char* flags;
  const char* values;
  std::vector<std::string> longs;
  std::size_t least_names, most_names;
};
Result<Arguments> parse_arguments(std::span<const std::string> arguments, const Syntax& syntax);

/// One run: a loop that only turns while something is waited for.
class Session {
 public:
  static Result<std::unique_ptr<Session>> create(std::FILE* out, std::FILE* err);
  block::Context& context() { return *context_; }
  host::EventLoop& loop() { return *loop_; }

  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    if (quiet) return;
    print_always(format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void print_always(fmt::format_string<Args...> format, Args&&... args) {
    const std::string text = fmt::format(format, std::forward<Args>(args)...);
    std::fwrite(text.data(), 1, text.size(), out_);
  }
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    const std::string text = fmt::format(format, std::forward<Args>(args)...);
    std::fwrite(text.data(), 1, text.size(), err_);
  }
  /// Part of 1 done; shows if asked for.
  void progress(double part);
  void end_progress();

  ~Session();
  /// The session closes what is still open at its end.
  Result<block::Node*> open(const block::DiskOptions& options);
  Result<block::Node*> open_protocol(const block::DiskOptions& options);
  /// Hands a node over to another.
  std::unique_ptr<block::Node> release(block::Node* node);
  Status close(block::Node* node);

  // Straight-line requests.
  Status read(block::Node& node, std::uint64_t offset, std::span<std::uint8_t> to);
  Status write(block::Node& node, std::uint64_t offset, std::span<const std::uint8_t> from, std::uint32_t flags = 0);
  Status zero(block::Node& node, std::uint64_t offset, std::uint64_t length, std::uint32_t flags = 0);
  Status flush(block::Node& node);
  Result<block::Extent> status(block::Node& node, std::uint64_t offset, std::uint64_t length);
  Status resize(block::Node& node, std::uint64_t size, block::Preallocation preallocation);

  bool quiet = false;
  bool show_progress = false;

 private:
  Session(std::FILE* out, std::FILE* err);
  std::FILE* out_;
  std::FILE* err_;
  Log log_;
  std::unique_ptr<host::EventLoop> loop_;
  std::unique_ptr<block::Context> context_;
  std::vector<std::unique_ptr<block::Node>> open_;
  int shown_ = -1;
};

/// Where a range comes from: the first layer of the chain that has it.
struct Origin {
  block::Extent extent;  ///< `present` false: no layer has it
  int depth = 0;
  block::Node* layer = nullptr;
};
/// Looks through at most `most_depth` layers (0: the top only).
Result<Origin> find_origin(Session& session, block::Node& top, std::uint64_t offset, std::uint64_t length,
                           int most_depth = INT32_MAX);

/// The qcow2 image in a node, or null.
block::qcow2::Image* qcow2_of(block::Node& node);

/// "10", "1.5G", "64k"; suffixes b k M G T P E. Bytes.
Result<std::uint64_t> parse_size(const std::string& text, const std::string& what);
Result<std::uint64_t> parse_number(const std::string& text, const std::string& what, std::uint64_t most);
/// As qemu-img shows it: "1.5 GiB".
std::string human_size(std::uint64_t bytes);
/// "a=1,b=2": a comma is doubled within a value.
Result<std::map<std::string, std::string>> parse_pairs(const std::vector<std::string>& lists);
Result<bool> parse_switch(const std::string& text, const std::string& what);

/// DiskOptions of an image that is read: -f, -U, -T/-t, --image-opts.
Result<block::DiskOptions> source_options(const Arguments& arguments, const std::string& name,
                                          const char* format_option = "f");

/// Creates an image as `create -f FORMAT -o OPTIONS` does; `size` and backing may come from `pairs` or the arguments.
struct Creation {
  std::string path, format;
  std::map<std::string, std::string> pairs;
  std::optional<std::uint64_t> size;
  std::string backing, backing_format;
  bool backing_unchecked = false;
};
Result<std::string> create_image(Session& session, Creation creation);

/// True if all bytes are zero.
bool is_zero(std::span<const std::uint8_t> bytes);

using Command = Result<int> (*)(Session& session, const Arguments& arguments);
Result<int> command_create(Session&, const Arguments&);
Result<int> command_convert(Session&, const Arguments&);
Result<int> command_dd(Session&, const Arguments&);
Result<int> command_resize(Session&, const Arguments&);
Result<int> command_info(Session&, const Arguments&);
Result<int> command_check(Session&, const Arguments&);
Result<int> command_map(Session&, const Arguments&);
Result<int> command_measure(Session&, const Arguments&);
Result<int> command_snapshot(Session&, const Arguments&);
Result<int> command_commit(Session&, const Arguments&);
Result<int> command_rebase(Session&, const Arguments&);
Result<int> command_compare(Session&, const Arguments&);
Result<int> command_bench(Session&, const Arguments&);

}  // namespace husk::app::img
