// husk: property lists of QEMU's options: key=value pairs that must all be known
#include "app/qemu_properties.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace husk::app {

namespace {
/// Commas in values are doubled.
Status flatten(const nlohmann::json& value, const std::string& key, std::string& out) {
  if (value.is_object()) {
    for (const auto& [name, inner] : value.items())
      HUSK_TRY(flatten(inner, key.empty() ? name : key + "." + name, out));
    return {};
  }
  // A list of texts, as of port forwards: QEMU writes each as {"str": TEXT}.
  if (value.is_array() && std::all_of(value.begin(), value.end(), [](const nlohmann::json& one) {
        return one.is_object() && one.size() == 1 && one.contains("str") && one["str"].is_string();
      })) {
    for (const nlohmann::json& one : value) HUSK_TRY(flatten(one["str"], key, out));
    return {};
  }
  if (value.is_array() || value.is_null() || key.empty())
    return refuse(fmt::format("'{}' has a value of a kind that is not understood", key),
                  "give a string, number or truth value");
  std::string text = value.is_string()    ? value.get<std::string>()
                     : value.is_boolean() ? (value.get<bool>() ? "on" : "off")
                                          : value.dump();
  for (std::size_t at = 0; (at = text.find(',', at)) != std::string::npos; at += 2) text.insert(at, ",");
  out += (out.empty() ? "" : ",") + key + "=" + text;
  return {};
}
}  // namespace

Result<std::string> flat_properties(const std::string& text, std::string_view what) {
  if (!text.starts_with('{')) return text;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object())
    return refuse(fmt::format("{}: the JSON is not well-formed", what), "give an object");
  std::string flat;
  HUSK_TRY(flatten(json, "", flat));
  return flat;
}

std::unexpected<Error> refuse(std::string message, std::string next_step) {
  return std::unexpected(Error{std::move(message), std::move(next_step)});
}

Properties::Properties(std::string_view text, std::string_view implied, std::string what) : what_(std::move(what)) {
  bool first = true;
  for (machine::OptionPart& part : machine::split_option(text)) {
    if (first && !part.has_value && !implied.empty()) part = {std::string(implied), std::move(part.key), true};
    first = false;
    pairs_.push_back({std::move(part), false});
  }
}

std::optional<std::string> Properties::take(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  std::optional<std::string> value;
  // As in QEMU, the last of several counts.
  for (Pair& pair : pairs_) {
    if (pair.part.key == key) {
      pair.taken = true;
      value = pair.part.has_value ? pair.part.value : "on";
    } else if (!pair.part.has_value && pair.part.key.starts_with("no") &&
               std::string_view(pair.part.key).substr(2) == key) {
      // "nowait" is an old way to say wait=off.
      pair.taken = true;
      value = "off";
    }
  }
  return value;
}

std::optional<std::string> Properties::take_next(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  for (Pair& pair : pairs_)
    if (pair.part.key == key && !pair.taken) {
      pair.taken = true;
      return pair.part.value;
    }
  return std::nullopt;
}

void Properties::skip(std::string_view key) {
  for (Pair& pair : pairs_) pair.taken = pair.taken || pair.part.key == key;
}

Result<bool> Properties::take_bool(std::string_view key, bool absent) {
  const auto value = take(key);
  if (!value) return absent;
  auto flag = machine::parse_bool(*value);
  if (!flag) return std::unexpected(std::move(flag).error().within(fmt::format("{} of {}", key, what_)));
  return flag;
}

Result<std::uint64_t> Properties::take_number(std::string_view key, std::uint64_t absent, std::uint64_t most) {
  const auto value = take(key);
  if (!value) return absent;
  auto number = machine::parse_number(*value, most);
  if (!number) return std::unexpected(std::move(number).error().within(fmt::format("{} of {}", key, what_)));
  return number;
}

Status Properties::take_fixed(std::string_view key, std::initializer_list<std::string_view> possible) {
  const auto value = take(key);
  if (!value || std::find(possible.begin(), possible.end(), *value) != possible.end()) return {};
  return refuse(fmt::format("{} cannot have {}={}", what_, key, *value),
                fmt::format("leave it out, or give {}={}", key, *possible.begin()));
}

Status Properties::finish() {
  for (const Pair& pair : pairs_) {
    if (pair.taken) continue;
    const std::vector<std::string_view> names(asked_.begin(), asked_.end());
    std::string list;
    for (const std::string& name : asked_) list += (list.empty() ? "" : ", ") + name;
    return refuse(
        fmt::format("{} has no property '{}'{}", what_, pair.part.key, machine::nearest_hint(pair.part.key, names)),
        asked_.empty() ? "it has none" : "it has " + list);
  }
  return {};
}

Result<machine::PciPlace> take_pci_place(Properties& properties) {
  machine::PciPlace place;
  place.id = properties.take("id").value_or("");
  HUSK_TRY(properties.take_fixed("bus", {"pcie.0", "pci.0"}));
  const auto text = properties.take("addr");
  if (!text) return place;
  // "3", "0x3", "03.0"; functions other than 0 are not for single devices. QEMU reads it as hexadecimal.
  const std::size_t dot = text->find('.');
  std::string device = text->substr(0, dot);
  if (!device.starts_with("0x")) device.insert(0, "0x");
  const auto number = machine::parse_number(device, 31);
  if (!number || *number == 0 || *number == 31 || (dot != std::string::npos && text->substr(dot + 1) != "0"))
    return refuse(fmt::format("{}: '{}' is no free PCI address", properties.what(), *text), "give addr=1 to addr=1e");
  place.address = static_cast<unsigned>(*number);
  return place;
}

}  // namespace husk::app
