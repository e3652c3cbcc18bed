// husk: `husk cpu`: CPU models and hosts listed, shown, compared and brought to a baseline
#include "app/cpu_command.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "app/exit_status.h"
#include "cpu/catalog.h"

namespace husk::app {

namespace {

using nlohmann::json;
using Names = std::vector<std::string>;

constexpr char kHelp[] =
    "Usage: husk cpu list [--json]            the CPU models\n"
    "       husk cpu show CPU [--json]        what a CPU has\n"
    "       husk cpu compare A B [--json]     what a machine started as A would lack on B; status 1 if anything\n"
    "       husk cpu baseline CPU... [--json] what to start a machine with that is to run on all of them\n"
    "\n"
    "CPU is a model with changes (Haswell,-avx2), 'host', or a file that 'husk cpu show host --json' wrote on another\n"
    "host; a file's name has a '/' or ends in .json.\n";

constexpr std::size_t kFileLimit = 1 << 20;
constexpr unsigned kMostFeatures = 4096;

Result<std::string> read_description(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  if (!file) return fail_errno(errno, "cannot read the CPU description " + path);
  std::string text(kFileLimit + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get())) return fail_errno(errno, "cannot read the CPU description " + path);
  if (text.size() > kFileLimit) return fail("{} is too large for a CPU description", path);
  return text;
}

Result<cpu::CpuDescription> from_json(const std::string& path, const std::string& text) {
  const auto bad = [&](std::string_view what) {
    return std::unexpected(Error{fmt::format("{} is no CPU description: {}", path, what),
                                 "write it by 'husk cpu show host --json' on that host"});
  };
  const json in = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return bad("it is not a JSON object");
  cpu::CpuDescription d;
  for (const auto& [key, to] : {std::pair{"name", &d.name}, {"vendor", &d.vendor}, {"brand", &d.brand}}) {
    const auto found = in.find(key);
    if (found == in.end() || !found->is_string()) return bad(fmt::format("'{}' is not a string", key));
    *to = found->get<std::string>();
  }
  for (const auto& [key, to] : {std::pair{"family", &d.family},
                                {"model", &d.model},
                                {"stepping", &d.stepping},
                                {"physical-bits", &d.physical_bits},
                                {"linear-bits", &d.linear_bits}}) {
    const auto found = in.find(key);
    if (found == in.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > 0xFFFF)
      return bad(fmt::format("'{}' is not a number", key));
    *to = found->get<unsigned>();
  }
  const auto features = in.find("features");
  if (features == in.end() || !features->is_array() || features->size() > kMostFeatures)
    return bad("'features' is not a list");
  for (const json& one : *features) {
    if (!one.is_string()) return bad("a feature is not a string");
    d.features.push_back(one.get<std::string>());
  }
  std::sort(d.features.begin(), d.features.end());
  d.features.erase(std::unique(d.features.begin(), d.features.end()), d.features.end());
  return d;
}

/// 'host' is the whole host CPU here, not what husk offers of it: that is what migration has to look at.
Result<cpu::CpuDescription> description_of(const std::string& text) {
  if (text.find('/') != std::string::npos || text.ends_with(".json"))
    return from_json(text, HUSK_TRY(read_description(text)));
  if (text == "host") {
    if (auto host = cpu::describe_host()) return *std::move(host);
    return std::unexpected(Error{"this host is not x86", "name a model or a description's file"});
  }
  const std::size_t comma = text.find(',');
  cpu::CpuModel model = HUSK_TRY(cpu::cpu_model(text.substr(0, comma)));
  if (comma != std::string::npos) HUSK_TRY(cpu::edit_features(model, text.substr(comma + 1)));
  cpu::CpuDescription d = cpu::describe(model);
  d.name = text;
  return d;
}

std::string joined(const Names& names) {
  std::string text;
  std::size_t column = 4;
  for (const std::string& name : names) {
    if (column + name.size() + 1 > 100) {
      text += "\n   ";
      column = 4;
    }
    text += " " + name;
    column += name.size() + 1;
  }
  return names.empty() ? " none" : text;
}

json to_json(const cpu::CpuDescription& d) {
  return {{"name", d.name},
          {"vendor", d.vendor},
          {"brand", d.brand},
          {"family", d.family},
          {"model", d.model},
          {"stepping", d.stepping},
          {"physical-bits", d.physical_bits},
          {"linear-bits", d.linear_bits},
          {"features", d.features}};
}
std::string dumped(const json& value) { return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n"; }

std::string list(bool as_json) {
  if (as_json) {
    json all = json::array();
    for (const cpu::CatalogEntry& entry : cpu::model_catalog())
      all.push_back({{"name", entry.name},
                     {"vendor", entry.vendor},
                     {"brand", entry.brand},
                     {"aliases", entry.aliases},
                     {"left-out", entry.left_out}});
    return dumped(all);
  }
  std::string text = fmt::format("{:<28} {:<13} {}\n", "MODEL", "VENDOR", "CPU");
  for (const cpu::CatalogEntry& entry : cpu::model_catalog())
    text +=
        fmt::format("{:<28} {:<13} {}{}\n", entry.name, entry.vendor, entry.brand, entry.left_out.empty() ? "" : " *");
  text += fmt::format("{:<28} {:<13} {}\n", "host", "", "what this host's CPU and husk both have");
  return text + "\n* without some features that husk does not have; 'husk cpu show MODEL' names them\n";
}

std::string show(const cpu::CpuDescription& d, const std::string& argument, bool as_json) {
  const auto entry = cpu::catalog_entry(argument.substr(0, argument.find(',')));
  if (as_json) {
    json out = to_json(d);
    if (entry) out["left-out"] = entry->left_out;
    return dumped(out);
  }
  std::string text = fmt::format("{}: {} ({}), family {}, model {}, stepping {}\n", d.name, d.brand, d.vendor, d.family,
                                 d.model, d.stepping);
  if (entry && !entry->aliases.empty()) text += "also:" + joined(entry->aliases) + "\n";
  text += fmt::format("addresses: {} bits physical, {} bits linear\n", d.physical_bits, d.linear_bits);
  text += "features:\n   " + joined(d.features) + "\n";
  if (entry && !entry->left_out.empty())
    text += "left out, as husk does not have them:\n   " + joined(entry->left_out) + "\n";
  return text;
}

std::string compare(const cpu::CpuDescription& a, const cpu::CpuDescription& b, const cpu::CpuComparison& result,
                    bool as_json) {
  if (as_json)
    return dumped({{"fits", result.fits()},
                   {"same-vendor", result.same_vendor},
                   {"enough-address-bits", result.enough_address_bits},
                   {"lacks", result.lacks},
                   {"gains", result.gains}});
  std::string text;
  if (result.fits())
    text += fmt::format("a machine started as {} has all its features on {}\n", a.name, b.name);
  else
    text += fmt::format("a machine started as {} would lack on {}:\n   {}\n", a.name, b.name, joined(result.lacks));
  if (!result.enough_address_bits)
    text += fmt::format("its addresses are wider: {} bits physical and {} linear against {} and {}\n", a.physical_bits,
                        a.linear_bits, b.physical_bits, b.linear_bits);
  if (!result.same_vendor) text += fmt::format("the vendors differ: {} and {}\n", a.vendor, b.vendor);
  if (!result.gains.empty()) text += fmt::format("{} has besides:\n   {}\n", b.name, joined(result.gains));
  return text;
}

std::string baseline(const cpu::CpuBaseline& result, bool as_json) {
  if (as_json)
    return dumped({{"cpu", result.text()},
                   {"model", result.model},
                   {"added", result.added},
                   {"physical-bits", result.physical_bits},
                   {"one-vendor", result.one_vendor}});
  return result.text() + "\n";
}

}  // namespace

int run_cpu_command(std::span<const std::string> arguments, std::FILE* out, std::FILE* err) {
  const auto refuse = [&](const Error& error) {
    fmt::print(err, "husk cpu: {}\n", error.text());
    return kUsageError;
  };
  const auto print = [&](const std::string& text, int status) {
    std::fwrite(text.data(), 1, text.size(), out);
    if (std::fflush(out) == 0) return status;
    return refuse(fail_errno(errno, "cannot write to standard output").error());
  };
  bool as_json = false;
  Names words;
  for (const std::string& argument : arguments) {
    if (argument == "--json")
      as_json = true;
    else if (argument == "--help" || argument == "-h")
      return print(kHelp, 0);
    else if (argument.starts_with('-'))
      return refuse({fmt::format("there is no option '{}'", argument), "it has --json and --help"});
    else
      words.push_back(argument);
  }
  const std::string command = words.empty() ? "" : words.front();
  const Error usage{
      words.empty() ? "what is to be done?" : fmt::format("cannot do '{}' with {} CPUs", command, words.size() - 1),
      "'husk cpu --help' describes list, show, compare and baseline"};
  std::vector<cpu::CpuDescription> cpus;
  for (std::size_t i = 1; i < words.size(); ++i) {
    auto cpu = description_of(words[i]);
    if (!cpu) return refuse(cpu.error());
    cpus.push_back(*std::move(cpu));
  }
  if (command == "list" && cpus.empty()) return print(list(as_json), 0);
  if (command == "show" && cpus.size() == 1) return print(show(cpus[0], words[1], as_json), 0);
  if (command == "compare" && cpus.size() == 2) {
    const cpu::CpuComparison result = cpu::compare(cpus[0], cpus[1]);
    return print(compare(cpus[0], cpus[1], result, as_json), result.fits() ? 0 : 1);
  }
  if (command == "baseline" && !cpus.empty()) {
    const auto result = cpu::baseline(cpus);
    if (!result) return refuse(result.error());
    if (!result->one_vendor) fmt::print(err, "husk cpu: warning: these CPUs are not all of one vendor\n");
    return print(baseline(*result, as_json), 0);
  }
  return refuse(usage);
}

}  // namespace husk::app
