// husk: a filter that lets requests fail as told, for tests of what is above it
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/filter.h"

namespace husk::block {

struct InjectionRule {
  bool reads = true;
  bool writes = true;  ///< also write_zeroes and discard
  bool flushes = false;
  int error = 5;                          ///< errno
  std::optional<std::uint64_t> sector{};  ///< of 512 bytes: only requests that touch it; never flushes
  bool once = false;
};

/// A request to which a rule applies fails without reaching the node below. Rules are looked at in their order.
class ErrorInjector final : public Filter {
 public:
  ErrorInjector(std::unique_ptr<Node> below, std::vector<InjectionRule> rules)
      : Filter(std::move(below)), rules_(std::move(rules)) {}
  std::string_view driver() const override { return "blkdebug"; }
  void submit(core::BlockRequest request) override;

 private:
  std::vector<InjectionRule> rules_;
};

}  // namespace husk::block
