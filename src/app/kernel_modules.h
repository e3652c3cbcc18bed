// husk: the modules that belong to a kernel file
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace husk::app {

struct KernelModule {
  std::string name;  ///< as lsmod shows it: with underscores, without ".ko"
  std::vector<std::uint8_t> data;
};

/// What modinfo calls `depends`: the modules that the symbols of this one come from. `file` is not compressed.
std::vector<std::string> module_dependencies(std::span<const std::uint8_t> file);

/// A directory of modules: /lib/modules/VERSION as `make modules_install` and packages leave it (with modules.dep if
/// depmod has run there), or the top of the source tree that a kernel was built in.
class ModuleTree {
 public:
  /// Fails if there is neither modules.dep nor modules.order.
  static Result<ModuleTree> open(const std::string& directory);
  /// Looks where a kernel's modules usually are: in the tree it was built in, in "modules" beside it, in lib/modules/
  /// `version` of the root that it is in the boot directory of, and in /lib/modules. `version` is what uname -r says
  /// in it; it may be empty.
  static std::optional<ModuleTree> find(const std::string& kernel, const std::string& version);

  const std::string& directory() const { return directory_; }
  bool has_module(std::string_view name) const { return files_.contains(normal(name)); }
  bool is_builtin(std::string_view name) const { return builtin_.contains(normal(name)); }
  /// True if there is a list of what is built in.
  bool knows_builtin() const { return knows_builtin_; }
  /// modprobe works with it.
  bool has_dependencies() const { return has_dependencies_; }

  /// The named modules and all that they need, decompressed, each after what it needs. Names that are no modules here
  /// are left out: they are built in or absent.
  Result<std::vector<KernelModule>> load(std::span<const std::string_view> names) const;

 private:
  static std::string normal(std::string_view name);
  void read_dependencies(const std::string& text);
  Status add(const std::string& name, std::set<std::string>& seen, std::vector<KernelModule>& into,
             unsigned depth) const;

  std::string directory_;
  std::map<std::string, std::string, std::less<>> files_;  ///< by name; paths relative to the directory
  std::map<std::string, std::vector<std::string>, std::less<>> dependencies_;
  std::set<std::string, std::less<>> builtin_;
  bool knows_builtin_ = false;
  bool has_dependencies_ = false;
};

}  // namespace husk::app
