// husk: the initiator's side of a SCSI command, for tests
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "devices/scsi/unit.h"

namespace husk::devices::scsi {

using Bytes = std::vector<std::uint8_t>;

struct Answer {
  bool answered = false;
  CommandStatus status = CommandStatus::good;
  Bytes data;  ///< what was put into the data-in buffer
  Bytes sense;
  bool overrun = false, stop_wanted = false;
  /// Key, ASC and ASCQ of fixed sense as one number: 5/24/00 is 0x052400.
  unsigned fixed_sense() const {
    return sense.size() < 14 ? 0u : static_cast<unsigned>((sense[2] << 16) | (sense[12] << 8) | sense[13]);
  }
};

/// A command with its buffers. Stays where it is until answered.
class Initiator {
 public:
  explicit Initiator(LogicalUnit& unit) : unit_(unit) {}
  struct Pending {
    CommandPtr command = std::make_shared<Command>();
    Bytes out, in;
    Answer answer;
  };
  std::unique_ptr<Pending> begin(const Bytes& cdb, Bytes out, std::size_t in) {
    auto p = std::make_unique<Pending>();
    p->out = std::move(out);
    p->in.assign(in, 0xEE);
    Command& c = *p->command;
    std::copy_n(cdb.begin(), std::min<std::size_t>(cdb.size(), Command::kMostCdb), c.cdb.begin());
    // In two pieces, so that nothing depends on buffers being in one.
    const auto split = [](Bytes& bytes, std::vector<core::BlockSpan>& spans) {
      const std::size_t cut = bytes.size() / 3;
      if (cut) spans.emplace_back(bytes.data(), cut);
      if (bytes.size() > cut) spans.emplace_back(bytes.data() + cut, bytes.size() - cut);
    };
    split(p->out, c.out);
    split(p->in, c.in);
    c.out_bytes = p->out.size();
    c.in_bytes = p->in.size();
    c.done = [raw = p.get()] {
      const Command& done = *raw->command;
      raw->answer = {true, done.status, {}, {}, done.overrun, done.stop_for != 0};
      if (!raw->in.empty()) raw->answer.data.assign(raw->in.begin(), raw->in.begin() + static_cast<long>(done.moved));
      if (done.status == CommandStatus::check_condition)
        raw->answer.sense.assign(done.sense.bytes.begin(),
                                 done.sense.bytes.begin() + static_cast<long>(done.sense.length));
    };
    unit_.execute(p->command);
    return p;
  }
  Answer run(const Bytes& cdb, Bytes out = {}, std::size_t in = 0) { return begin(cdb, std::move(out), in)->answer; }
  /// Takes the unit attention of power-on away.
  void settle() {
    for (int i = 0; i < 20 && !unit_.state().attentions.empty(); ++i) run({0, 0, 0, 0, 0, 0});
  }

 private:
  LogicalUnit& unit_;
};

}  // namespace husk::devices::scsi
