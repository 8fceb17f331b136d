// Addresses as Python's sockets have them.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pybind11/pybind11.h>
#include <sys/socket.h>

#include <array>

// For the families that have ports; nullptr without an error for others.
inline PyObject *address_tuple(const sockaddr &address) {
  std::array<char, INET6_ADDRSTRLEN> text;
  if (address.sa_family == AF_INET) {
    const auto &in = reinterpret_cast<const sockaddr_in &>(address);
    inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
    return Py_BuildValue("si", text.data(), ntohs(in.sin_port));
  }
  if (address.sa_family == AF_INET6) {
    const auto &in = reinterpret_cast<const sockaddr_in6 &>(address);
    inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
    return Py_BuildValue("siII", text.data(), ntohs(in.sin6_port), ntohl(in.sin6_flowinfo), in.sin6_scope_id);
  }
  return nullptr;
}
