// husk: character devices on unix and TCP sockets
#pragma once

#include <memory>
#include <string>

#include "chardev/stream.h"

namespace husk::chardev {

Result<std::unique_ptr<StreamChardev>> create_socket(host::EventLoop& loop, const std::string& id,
                                                     const SocketSpec& spec, Environment environment);

}  // namespace husk::chardev
