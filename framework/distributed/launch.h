// framework/distributed/launch.h: which of several processes this one is, as its launcher says in
// the environment: torchrun, mpirun, srun, or a script that sets the variables itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace regroup {

struct Launch {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // among the processes of this node
  std::string address = "127.0.0.1";   // where the first process, or torchrun's agent, listens
  uint16_t port = 29500;
  bool agent_listens = false;  // torchrun's agent serves address:port; else the first process

  bool is_first() const { return rank == 0; }
  /// Processes of every node alike, ranks node by node.
  bool has_equal_nodes() const;
};

using Environment = std::function<std::optional<std::string>(const char* name)>;
/// The process's own variables; empty ones count as absent.
std::optional<std::string> environment_variable(const char* name);

/// Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; else Open
/// MPI's variables; else Slurm's, inside a step of srun. Nothing where there is but one process.
/// Throws a request Error for variables that contradict each other or miss something.
std::optional<Launch> read_launch(const Environment& environment = environment_variable);

/// The first name of Slurm's list of nodes: "a[03-05,9],b1" -> "a03".
std::string first_node(const std::string& nodes);

}  // namespace regroup
