// husk: a filter that lets requests fail as told
#include "block/error_injector.h"

namespace husk::block {

namespace {
bool applies(const InjectionRule& rule, const core::BlockRequest& request) {
  if (request.op == core::BlockOp::flush) return rule.flushes && !rule.sector;
  if (request.op == core::BlockOp::read ? !rule.reads : !rule.writes) return false;
  if (!rule.sector) return true;
  const std::uint64_t first = request.offset / 512;
  const std::uint64_t last = (request.offset + (request.length ? request.length - 1 : 0)) / 512;
  return *rule.sector >= first && *rule.sector <= last;
}
}  // namespace

void ErrorInjector::submit(core::BlockRequest request) {
  for (auto rule = rules_.begin(); rule != rules_.end(); ++rule) {
    if (!applies(*rule, request)) continue;
    const int error = rule->error;
    if (rule->once) rules_.erase(rule);
    return request.completion(error);
  }
  below_->submit(std::move(request));
}

}  // namespace husk::block
