// husk: the modules that belong to a kernel file
#include "app/kernel_modules.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "boot/decompress.h"
#include "host/file.h"

namespace husk::app {
namespace {

constexpr std::size_t kMostModule = std::size_t{64} << 20;
constexpr std::size_t kMostList = std::size_t{64} << 20;
constexpr unsigned kMostDepth = 64;

bool is_file(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::optional<std::string> read_list(const std::string& path) {
  const auto bytes = host::read_file(path, kMostList);
  if (!bytes) return std::nullopt;
  return std::string(bytes->begin(), bytes->end());
}

template <class Function>
void for_each_line(std::string_view text, Function function) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (end > 0) function(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

/// Builds of Linux 6.2 and later list the objects that modules are made of.
std::string module_path(std::string_view line) {
  std::string path(line);
  if (path.ends_with(".o")) path.replace(path.size() - 1, 1, "ko");
  return path;
}

Result<std::vector<std::uint8_t>> read_module(const std::string& path) {
  auto data = HUSK_TRY(host::read_file(path, kMostModule));
  const auto format = boot::detect_compression(data);
  if (!format) return data;
  // Copied, because g++ 12 takes a move out of it for a double free.
  const auto unpacked = boot::decompress(*format, data, kMostModule);
  if (!unpacked) return std::unexpected(Error(unpacked.error()).within(path));
  return unpacked->data;
}

}  // namespace

std::vector<std::string> module_dependencies(std::span<const std::uint8_t> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  constexpr std::string_view kKey("\0depends=", 9);
  std::vector<std::string> names;
  const std::size_t at = text.find(kKey);
  if (at == std::string_view::npos) return names;
  std::string_view list = text.substr(at + kKey.size());
  list = list.substr(0, std::min(list.find('\0'), std::size_t{4096}));
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(','), list.size());
    if (end > 0) names.emplace_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return names;
}

std::string ModuleTree::normal(std::string_view name) {
  name = name.substr(name.rfind('/') + 1);
  if (const std::size_t end = name.rfind(".ko"); end != std::string_view::npos) name = name.substr(0, end);
  std::string result(name);
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

void ModuleTree::read_dependencies(const std::string& text) {
  for_each_line(text, [&](std::string_view line) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    const std::string name = normal(line.substr(0, colon));
    files_[name] = line.substr(0, colon);
    std::vector<std::string>& needed = dependencies_[name];
    line.remove_prefix(colon + 1);
    while (!line.empty()) {
      const std::size_t end = std::min(line.find(' '), line.size());
      if (end > 0) needed.push_back(normal(line.substr(0, end)));
      line.remove_prefix(std::min(end + 1, line.size()));
    }
  });
}

Result<ModuleTree> ModuleTree::open(const std::string& directory) {
  ModuleTree tree;
  tree.directory_ = directory;
  if (const auto builtin = read_list(directory + "/modules.builtin")) {
    tree.knows_builtin_ = true;
    for_each_line(*builtin, [&](std::string_view line) { tree.builtin_.insert(normal(line)); });
  }
  if (const auto dependencies = read_list(directory + "/modules.dep")) {
    tree.has_dependencies_ = true;
    tree.read_dependencies(*dependencies);
  } else if (const auto order = read_list(directory + "/modules.order")) {
    for_each_line(*order, [&](std::string_view line) {
      const std::string path = module_path(line);
      tree.files_[normal(path)] = path;
    });
  } else {
    return std::unexpected(Error{fmt::format("'{}' holds no kernel modules", directory),
                                 "it should have a file modules.dep or modules.order"});
  }
  return tree;
}

std::optional<ModuleTree> ModuleTree::find(const std::string& kernel, const std::string& version) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(kernel, error);
  if (error) return std::nullopt;
  const std::string folder = real.parent_path();
  std::vector<std::string> places;
  // TOP/arch/x86/boot/bzImage, TOP/vmlinux.
  for (const char* architecture : {"/arch/x86/boot", "/arch/x86_64/boot"})
    if (folder.ends_with(architecture))
      places.push_back(folder.substr(0, folder.size() - std::string_view(architecture).size()));
  places.push_back(folder);
  places.push_back(folder + "/modules");
  if (!version.empty() && version.find('/') == std::string::npos) {
    const std::string installed = "lib/modules/" + version;
    places.push_back(real.parent_path().parent_path() / installed);
    places.push_back(real.parent_path().parent_path() / ("usr/" + installed));
    places.push_back("/" + installed);
    places.push_back("/usr/" + installed);
  }
  for (const std::string& place : places)
    if (is_file(place + "/modules.dep") || is_file(place + "/modules.order"))
      if (auto tree = open(place)) return std::move(*tree);
  return std::nullopt;
}

Status ModuleTree::add(const std::string& name, std::set<std::string>& seen, std::vector<KernelModule>& into,
                       unsigned depth) const {
  const auto file = files_.find(name);
  if (file == files_.end() || depth > kMostDepth || !seen.insert(name).second) return {};
  const std::string path = file->second.starts_with('/') ? file->second : directory_ + "/" + file->second;
  std::vector<std::uint8_t> data = HUSK_TRY(read_module(path));
  const auto known = dependencies_.find(name);
  const auto needed = known != dependencies_.end() ? known->second : module_dependencies(data);
  for (const std::string& one : needed) HUSK_TRY(add(normal(one), seen, into, depth + 1));
  into.push_back({name, std::move(data)});
  return {};
}

Result<std::vector<KernelModule>> ModuleTree::load(std::span<const std::string_view> names) const {
  std::vector<KernelModule> modules;
  std::set<std::string> seen;
  for (const std::string_view name : names) HUSK_TRY(add(normal(name), seen, modules, 0));
  return modules;
}

}  // namespace husk::app
