// husk: process 1 of a guest that husk runs one command in
#include "relay.h"

extern "C" void husk_main();

void husk_main() {
  using namespace husk::guest;
  static Config config;
  Control control;
  mount_devices();
  read_config(control, config);
  load_modules(control, config);
  control.fd = open_port(control, Port::control, 2);
  make_root(control, config);
  set_up_network(control, config);
  give_names(config);
  run_command(control, config);
  wait_for_end();
}
