// husk: sequences on the host's own CPU and in the interpreter, up to their first fault
#include "host_comparer.h"

#include <algorithm>
#include <cstring>

#include "../compare.h"

namespace husk::differential {

namespace {

std::uint16_t form_of_nop() {
  cpu::Insn insn{};
  constexpr std::uint8_t kNop[] = {0x90};
  (void)cpu::decode(kNop, cpu::CodeSize::bits64, insn);
  return insn.form;
}

/// The sequence's start as the child takes it.
void fill_request(const Sequence& sequence, Test& test) {
  const bool wide = sequence.mode == SequenceMode::user64;
  test = Test{};
  test.mode = wide ? Mode::long64 : Mode::compat32;
  test.form = form_of_nop();
  Request& request = test.request;
  std::memcpy(request.gpr, sequence.state.gpr.data(), sizeof request.gpr);
  request.rip = sequence.start;
  request.cs = wide ? kUserCs64 : kUserCs32;
  request.ss = kUserDs;
  request.es = request.ds = request.fs = request.gs = wide ? 0 : kUserDs;
  request.rflags = sequence.state.rflags;
  request.rsp = request.gpr[cpu::kRsp];
  store_fp(sequence.state, request.fp);
  request.fp.xstate_bv = 7;
  // Neighbours become one piece: the child takes only a few.
  unsigned used = 0;
  for (const DataPatch& patch : sequence.data) {
    const auto offset = static_cast<std::uint16_t>(patch.linear - kLowData);
    Poke* const last = request.poke_count ? &request.pokes[request.poke_count - 1] : nullptr;
    if (used + sizeof patch.bytes > kPokeBytes) break;
    if (last && last->offset + last->length == offset)
      last->length = static_cast<std::uint16_t>(last->length + sizeof patch.bytes);
    else if (request.poke_count < kMaxPokes)
      request.pokes[request.poke_count++] = {offset, sizeof patch.bytes, static_cast<std::uint16_t>(used)};
    else
      break;
    std::memcpy(request.poke_bytes + used, patch.bytes, sizeof patch.bytes);
    used += static_cast<unsigned>(sizeof patch.bytes);
  }
}

}  // namespace

Result<std::unique_ptr<HostComparer>> HostComparer::create() {
  if (const std::string lack = host_lacks(); !lack.empty()) return fail("{}", lack);
  std::unique_ptr<HostComparer> made(new HostComparer);
  const std::vector<std::uint8_t> data = background_data();
  made->host_ = HUSK_TRY(HostCpu::start(data));
  made->guest_ = std::make_unique<GuestCpu>(data, cpu::cpu_model("max").value().features & host_features(),
                                            made->host_->tiny_data());
  return made;
}

std::vector<std::string> HostComparer::compare(const Sequence& sequence, SequenceReport* counts) {
  if (!broken_.empty()) return {broken_};
  const std::optional<Program> program = assemble(sequence);
  if (!program) return {};
  Test test;
  fill_request(sequence, test);
  // First here: what does not end must not begin on the host. Nor what leaves the instructions as they were laid out
  // (by a return address that was written over): it may read undefined flags, or call the host's kernel.
  bool strays = false;
  const auto watch = [&](const cpu::interp::Core& core) {
    const auto place = std::lower_bound(program->places.begin(), program->places.end(), core.s.rip,
                                        [](const Program::Place& p, std::uint64_t rip) { return p.rip < rip; });
    strays = strays || ((place == program->places.end() || place->rip != core.s.rip) &&
                        core.s.rip - sequence.start < program->code.size());
  };
  if (!guest_->run_code(test, program->code, kSequenceBudget, watch, *guest_outcome_) || strays) {
    if (counts) ++counts->discarded;
    return {};
  }
  (void)guest_->run_code(test, program->code, kSequenceBudget, {}, *guest_outcome_);
  *host_outcome_ = {};
  if (const Status ran = host_->run_code(test.request, program->code, host_outcome_->state); !ran) {
    broken_ = ran.error().text();
    return {broken_};
  }
  Answer& host = host_outcome_->state;
  Answer& guest = guest_outcome_->state;
  // INT3 in the empty code: Linux tells of it behind the instruction; here the absent IDT is what is wrong with it.
  constexpr std::uint32_t kNoGateForInt3 = 3 * 8 + 2;
  if (host.vector == 3 && guest.vector == 13 && guest.error == kNoGateForInt3) {
    --host.rip;
    guest.vector = 3;
    guest.error = 0;
  }
  if (guest.rip == host.rip) {
    for (const Program::Place& place : program->places) {
      if (place.rip != guest.rip) continue;
      host.rflags &= ~std::uint64_t{place.undefined_flags};
      guest.rflags &= ~std::uint64_t{place.undefined_flags};
    }
  }
  if (counts) {
    ++counts->compared;
    ++counts->stops;
    counts->instructions += program->places.size();
  }
  return differences(test, *host_outcome_, *guest_outcome_);
}

void choose_for_host(SequenceCampaignOptions& options) {
  options.subject = "host";
  options.modes = {SequenceMode::user64, SequenceMode::user32};
  options.sequences.for_host = options.sequences.settle_flags = true;
  const cpu::FeatureSet features = cpu::cpu_model("max").value().features & host_features();
  options.sequences.forms.assign(cpu::forms().size(), false);
  for (std::uint16_t form = 0; form < cpu::forms().size(); ++form)
    options.sequences.forms[form] =
        reason_not_run(form, Mode::long64, features).empty() || reason_not_run(form, Mode::compat32, features).empty();
}

}  // namespace husk::differential
