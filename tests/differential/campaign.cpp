// husk: a run of differential tests: makes them, has both processors run them, compares, shrinks what differs
#include "campaign.h"

#include <algorithm>
#include <cstring>

#include "base/bits.h"

namespace husk::differential {

cpu::FeatureSet shared_features() {
  cpu::FeatureSet set = cpu::cpu_model("max").value().features;
  return set & host_features();
}

Campaign::Campaign(CampaignOptions options) : options_(std::move(options)) {}

void Campaign::choose_forms() {
  for (std::uint16_t form = 0; form < cpu::forms().size(); ++form) {
    if (!options_.only.empty() && form_name(form).find(options_.only) == std::string::npos) continue;
    for (const Mode mode : {Mode::long64, Mode::compat32}) {
      if (!(mode == Mode::long64 ? options_.long64 : options_.compat32)) continue;
      if (!reason_not_run(form, mode, features_).empty()) continue;
      choices_.push_back({form, mode});
      report_.forms[form][static_cast<unsigned>(mode)].wanted = true;
    }
  }
  // In an order of its own for each seed, so that short runs see different forms side by side.
  Dice dice(options_.seed);
  for (std::size_t i = choices_.size(); i > 1; --i)
    std::swap(choices_[i - 1], choices_[dice.below(static_cast<unsigned>(i))]);
}

bool Campaign::cached(const Test& test) const {
  // REP strings take their quick way only inside a block; others go either way.
  return (cpu::forms()[test.form].attributes & (cpu::kAttrRep | cpu::kAttrRepCond)) ||
         test.request.gpr[cpu::kR8] % 8 == 0;
}

Result<Report> Campaign::run() {
  if (const std::string lack = host_lacks(); !lack.empty()) return fail("{}", lack);
  features_ = shared_features();
  data_ = background_data();
  host_ = HUSK_TRY(HostCpu::start(data_));
  guest_ = std::make_unique<GuestCpu>(data_, features_, host_->tiny_data(), options_.jit);
  generator_ = std::make_unique<Generator>(options_.seed, host_->tiny_data());
  report_.forms.resize(cpu::forms().size());
  choose_forms();
  if (choices_.empty()) return fail("no form of the table matches {:?}", options_.only);

  const auto begin = std::chrono::steady_clock::now();
  const auto over = [&] {
    if (options_.tests != 0 && report_.compared >= options_.tests) return true;
    return options_.time.count() != 0 && std::chrono::steady_clock::now() - begin >= options_.time;
  };
  Batch batches[2];
  unsigned set = 0;
  bool waiting = false;
  for (;;) {
    const bool more = !over() && report_.broken.empty();
    if (more) {
      fill(batches[set], set);
      host_->submit(batches[set].tests);
    }
    Batch& other = batches[set ^ 1];
    if (waiting) {
      const Status got = host_->collect(other.host);
      if (!got) {
        const Test& culprit = other.tests[std::min<std::size_t>(host_->failed_at(), other.tests.size() - 1)];
        report_.broken = fmt::format("{} ({})", got.error().text(), form_name(culprit.form));
        break;
      }
      HUSK_TRY(examine(other));
    }
    if (!more) break;
    waiting = true;
    set ^= 1;
    if (!suspects_.empty()) {
      // Nothing else may be out while single tests are repeated.
      Batch& last = batches[set ^ 1];
      HUSK_TRY(host_->collect(last.host));
      HUSK_TRY(examine(last));
      waiting = false;
      for (const auto& [index, test] : std::exchange(suspects_, {})) HUSK_TRY(take_mismatch(test));
    }
  }
  for (const auto& [index, test] : std::exchange(suspects_, {})) {
    if (report_.broken.empty()) HUSK_TRY(take_mismatch(test));
  }
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return std::move(report_);
}

void Campaign::fill(Batch& batch, unsigned set) {
  batch.tests.resize(kBatch);
  batch.host.resize(kBatch);
  for (unsigned i = 0; i < kBatch;) {
    const Choice choice = choices_[next_choice_++ % choices_.size()];
    if (generator_->make(choice.form, choice.mode, set, i, batch.tests[i]))
      ++i;
    else if (++report_.forms[choice.form][static_cast<unsigned>(choice.mode)].not_made > 1000 && choices_.size() == 1)
      std::abort();
  }
}

Status Campaign::examine(Batch& batch) {
  for (std::size_t i = 0; i < batch.tests.size(); ++i) {
    const Test& test = batch.tests[i];
    guest_->run(test, cached(test), *guest_outcome_);
    FormCount& count = report_.forms[test.form][static_cast<unsigned>(test.mode)];
    ++count.run;
    ++report_.compared;
    if (batch.host[i].state.vector != kNoFault && !batch.host[i].fetch_fault) {
      ++count.faulted;
      ++report_.faulted;
    }
    if (differences(test, batch.host[i], *guest_outcome_).empty()) continue;
    if (++count.mismatched <= options_.mismatches_per_form) suspects_.emplace_back(static_cast<unsigned>(i), test);
    ++report_.mismatched;
  }
  return {};
}

Status Campaign::ask_host(const Test& test, Outcome& host) {
  host_->submit({&test, 1});
  return host_->collect({&host, 1});
}

Result<bool> Campaign::still_differs(const Test& test, Mismatch& found) {
  HUSK_TRY(ask_host(test, found.host));
  guest_->run(test, cached(test), found.guest);
  found.differences = differences(test, found.host, found.guest);
  return !found.differences.empty();
}

Status Campaign::take_mismatch(const Test& test) {
  Mismatch mismatch;
  mismatch.test = test;
  // The host's kernel may switch contexts in the middle of a test and lose x87 pointers, and an operand by chance lie
  // in the code of the batch's other tests: alone it must differ too.
  for (unsigned i = 0; i < 3; ++i) {
    if (HUSK_TRY(still_differs(test, mismatch))) continue;
    FormCount& count = report_.forms[test.form][static_cast<unsigned>(test.mode)];
    --count.mismatched;
    --report_.mismatched;
    ++report_.transient;
    return {};
  }
  HUSK_TRY(shrink(mismatch));
  report_.mismatches.push_back(std::move(mismatch));
  return {};
}

Status Campaign::shrink(Mismatch& mismatch) {
  const auto try_change = [&](auto&& change) -> Status {
    Mismatch smaller;
    smaller.test = mismatch.test;
    change(smaller.test.request);
    if (std::memcmp(&smaller.test.request, &mismatch.test.request, sizeof(Request)) == 0) return {};
    // What addresses the operand must stay: a fault instead of the difference is no simpler case of it.
    const std::uint32_t vector = mismatch.host.state.vector;
    const bool differs = HUSK_TRY(still_differs(smaller.test, smaller));
    if (differs && smaller.host.state.vector == vector) mismatch = std::move(smaller);
    return {};
  };
  const auto zero = [&](std::size_t offset, std::size_t size) {
    return try_change([&](Request& r) { std::memset(reinterpret_cast<std::uint8_t*>(&r) + offset, 0, size); });
  };
  // Whole groups first.
  HUSK_TRY(zero(offsetof(FpImage, legacy) + 160, 256));
  HUSK_TRY(zero(offsetof(FpImage, ymm_high), 256));
  HUSK_TRY(zero(offsetof(FpImage, legacy) + 32, 128));
  HUSK_TRY(zero(offsetof(FpImage, legacy) + 6, 18));
  HUSK_TRY(try_change([](Request& r) {
    store_le(r.fp.legacy, std::uint16_t{0x37F});
    store_le(r.fp.legacy + 2, std::uint16_t{0});
    store_le(r.fp.legacy + 4, std::uint16_t{0});
  }));
  HUSK_TRY(try_change([](Request& r) { store_le(r.fp.legacy + 24, std::uint32_t{0x1F80}); }));
  HUSK_TRY(try_change([](Request& r) { r.rflags = cpu::kReservedOne | cpu::kIF; }));
  HUSK_TRY(try_change([](Request& r) { r.poke_count = 0; }));
  for (unsigned i = 0; i < 16; ++i) {
    HUSK_TRY(try_change([&](Request& r) {
      r.gpr[i] = 0;
      r.rsp = r.gpr[cpu::kRsp];
    }));
    HUSK_TRY(zero(offsetof(FpImage, legacy) + 160 + 16 * i, 16));
    HUSK_TRY(zero(offsetof(FpImage, ymm_high) + 16 * i, 16));
    if (i < 8) HUSK_TRY(zero(offsetof(FpImage, legacy) + 32 + 16 * i, 10));
  }
  for (const std::uint64_t flag :
       {cpu::kCF, cpu::kPF, cpu::kAF, cpu::kZF, cpu::kSF, cpu::kDF, cpu::kOF, cpu::kNT, cpu::kAC, cpu::kID})
    HUSK_TRY(try_change([&](Request& r) { r.rflags &= ~flag; }));
  for (std::size_t at = 0; at < kPokeBytes; at += 4) {
    const unsigned used = mismatch.test.request.poke_count == 0
                              ? 0u
                              : mismatch.test.request.pokes[mismatch.test.request.poke_count - 1].source +
                                    mismatch.test.request.pokes[mismatch.test.request.poke_count - 1].length;
    if (at >= used) break;
    HUSK_TRY(zero(offsetof(Request, poke_bytes) + at, 4));
  }
  return {};
}

husk::Result<HostRecorder> HostRecorder::start() {
  if (const std::string lack = host_lacks(); !lack.empty()) return fail("{}", lack);
  HostRecorder recorder;
  recorder.host_ = HUSK_TRY(HostCpu::start(background_data()));
  // 16-bit addresses would need memory that not every host gives.
  recorder.generator_ = std::make_unique<Generator>(20261121, false);
  return recorder;
}

husk::Result<Outcome> HostRecorder::run(const Test& test) {
  Outcome outcome{};
  host_->submit({&test, 1});
  HUSK_TRY(host_->collect({&outcome, 1}));
  return outcome;
}

namespace {

/// Empties what the instruction does not name, so that a recorded vector is short.
void strip(Test& test) {
  const cpu::Form& form = cpu::forms()[test.form];
  Request& r = test.request;
  const cpu::Insn& insn = test.insn;
  const auto named = [&](unsigned n) {
    return n == insn.reg || n == insn.rm || n == insn.vvvv || n == insn.base || n == insn.index ||
           n == (insn.imm2 & 15u);
  };
  const bool state =
      form.mnemonic.find("SAVE") != form.mnemonic.npos || form.mnemonic.find("XRSTOR") != form.mnemonic.npos;
  const bool vector = form.attributes & (cpu::kAttrSse | cpu::kAttrAvx | cpu::kAttrMmx);
  const bool x87 = (form.attributes & (cpu::kAttrFpu | cpu::kAttrMmx)) || form.mnemonic == "FWAIT" ||
                   form.mnemonic.find("PI") != form.mnemonic.npos;
  for (unsigned i = 0; i < 16; ++i) {
    if (i >= 8 && !named(i)) r.gpr[i] = 0;
    if (state || (vector && (named(i) || i == 0))) continue;
    std::memset(r.fp.legacy + 160 + 16 * i, 0, 16);
    std::memset(r.fp.ymm_high[i], 0, 16);
  }
  if (!vector && !state) store_le(r.fp.legacy + 24, std::uint32_t{0x1F80});
  if (x87 || state) return;
  std::memset(r.fp.legacy, 0, 24);
  std::memset(r.fp.legacy + 32, 0, 128);
  store_le(r.fp.legacy, std::uint16_t{0x37F});
}

}  // namespace

std::optional<Test> HostRecorder::sample(std::uint16_t form, Mode mode, Outcome& outcome) {
  Test test{};
  for (unsigned attempt = 0; attempt < 40; ++attempt) {
    test = Test{};
    if (!generator_->make(form, mode, 0, 0, test)) continue;
    strip(test);
    husk::Result<Outcome> got = run(test);
    if (!got) return {};
    outcome = *got;
    if (outcome.state.vector == kNoFault && outcome.state.chunk_count <= 16) return test;
  }
  return {};
}

}  // namespace husk::differential
